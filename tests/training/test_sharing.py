import huggingface_hub
import pytest
from huggingface_hub import ModelCard

from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.sharing import write_model_card
from ddpm_hf.training.train import main, train


def test_the_card_says_what_the_model_is(image_folder, tiny_pipeline, tmp_path):
    folder = train(
        TrainingArguments(
            dataset=image_folder,
            init_from=tiny_pipeline,
            output_dir=str(tmp_path / "run"),
            max_train_steps=1,
            batch_size=4,
            num_samples=1,
            sample_steps=1,
        )
    )
    write_model_card(folder, "someone/model")
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "diffusers"
    assert 'from_pretrained("someone/model")' in card.text
    assert "samples/step-000001.png" in card.text
    assert "batch_size: 4" in card.text


def test_a_hub_that_cannot_be_reached_is_one_sentence_before_the_training(
    image_folder, tiny_pipeline, tmp_path, monkeypatch
):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    argv = ["--dataset", image_folder, "--init_from", tiny_pipeline, "--output_dir", str(tmp_path / "run")]
    argv += ["--max_train_steps=1", "--batch_size=4", "--push_to_hub", "--hub_model_id=someone/model"]
    with pytest.raises(SystemExit, match="^train: error: push_to_hub is on, but the Hub does not take the model"):
        main(argv)
    assert not (tmp_path / "run").exists()

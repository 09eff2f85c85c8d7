import subprocess
import sys

import pytest

from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.metric_names import SampleMetric, metric_names, parse_metrics


def test_metrics_of_the_model_and_of_samples():
    metrics = parse_metrics("bpd,fid, prdc_dinov2,kid")
    assert metrics.of_the_model == ["bpd"]
    assert metrics.of_samples == [
        SampleMetric("fid", "fd", "inception"),
        SampleMetric("prdc_dinov2", "prdc", "dinov2"),
        SampleMetric("kid", "kid", None),
    ]


def test_names_of_figures():
    fid, prdc, kid = parse_metrics("fid,prdc_dinov2,kid").of_samples
    assert (fid.figure(""), prdc.figure("recall"), kid.figure("")) == ("fid", "recall_dinov2", "kid")


def test_every_name_is_known():
    parsed = [parse_metrics(name) for name in metric_names()]
    assert all(len(metrics.of_the_model) + len(metrics.of_samples) == 1 for metrics in parsed)
    assert {"bpd", "fid", "fd_dinov2", "kid_clip", "is", "memorisation", "channels"} <= {*metric_names()}
    assert "channels_clip" not in metric_names()


@pytest.mark.parametrize(
    "text, message",
    [
        ("fdi", "metrics='fdi' is not one of .*did you mean 'fd'"),
        ("fid,bpd,fid", "names 'fid' twice"),
        ("kid_vgg", "metrics='kid_vgg' is not one of"),
        ("bpd,", "metrics='' is not one of"),
    ],
)
def test_what_is_no_metric(text, message):
    with pytest.raises(InputError, match=message):
        parse_metrics(text)


def test_they_are_known_without_torch():
    program = "import sys; import ddpm_hf.evaluation.metric_names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0

"""The groups in which the help of a training shows its options."""

_NAMES = {
    "Data": "dataset dataset_config split image_column condition_column label_column value_column value_range "
    "value_dropout class_conditional label_dropout resolution aspect_buckets center_crop random_crop random_flip "
    "point_columns num_points preserve_input_precision strict_data",
    "Where the data is kept": "in_memory_limit_gb on_disk_limit_gb cache_dir dataloader_workers streaming "
    "shuffle_buffer",
    "Network": "model unet vae autoencoder latent_channels init_from variance_head train_head_only width "
    "layers_per_block dropout",
    "Captions": "caption_column caption_template text_encoder",
    "Condition images": "low_resolution max_augmentation_level condition_dropout",
    "Diffusion process": "process num_train_timesteps beta_schedule beta_start beta_end prediction_type variance_type "
    "rescale_betas_zero_snr sigma_max sigma_data",
    "Length and batch": "max_train_steps num_epochs minutes batch_size gradient_accumulation_steps find_batch_size",
    "Loss": "reconstruction kl_weight perceptual_network perceptual_weight discriminator_weight discriminator_start "
    "objective vlb_weight min_snr_gamma likelihood_weighting discrete_levels "
    "timestep_sampling",
    "Optimizer": "learning_rate lr_scheduler lr_warmup_steps optimizer adam_beta1 adam_beta2 adam_weight_decay "
    "adam_epsilon max_grad_norm max_nonfinite_steps seed",
    "Average of the weights": "ema ema_decay ema_power ema_inv_gamma ema_stds ema_snapshot_every",
    "Speed and memory": "mixed_precision channels_last compile gradient_checkpointing",
    "Result, samples and logs": "output_dir dry_run checkpoint_every checkpoints_limit sample_every "
    "save_images_epochs sample_neighbours num_samples sample_steps log_every report_to logging_dir",
    "Held-out images": "eval_every eval_split num_eval_images eval_steps eval_features",
    "Sharing": "push_to_hub hub_model_id hub_private hub_license",
}
GROUP_OF = {name: group for group, names in _NAMES.items() for name in names.split()}

"""The setting that a word means, for the hints of error messages."""

import difflib

from fer_ignite.config.settings import Config

__all__ = ["nearest_setting"]

# Names in Lightning, Hugging Face, timm and elsewhere: for the hint of an error only, not as
# aliases.
_OTHERS_CALL_IT = {
    "learning_rate": "lr",
    "optimizer": "opt",
    "optim": "opt",
    "scheduler": "sched",
    "lr_scheduler": "sched",
    "ema": "model_ema",
    "swa": "swa_start",
    "sam": "sam_rho",
    "rho_sam": "sam_rho",
    "tau": "logit_adjustment",
    "kd_weight": "distill_weight",
    "distillation": "teacher",
    "progressive_resizing": "image_size_schedule",
    "dataset": "data",
    "num_workers": "workers",
    "criterion": "loss",
    "early_stopping": "patience",
    "amp": "precision",
    "batch": "batch_size",
    "bs": "batch_size",
    "img_size": "image_size",
    "input_size": "image_size",
    "size": "image_size",
    "epoch": "epochs",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "wd": "weight_decay",
    "label_smoothing": "smoothing",
    "gradient_clip_val": "clip_grad",
    "grad_clip": "clip_grad",
    "clip": "clip_grad",
    "accumulate_grad_batches": "grad_accum_steps",
    "gradient_accumulation_steps": "grad_accum_steps",
    "accumulation": "grad_accum_steps",
    "random_seed": "seed",
    "arch": "model",
    "architecture": "model",
    "network": "model",
    "backbone": "model",
    "output_dir": "out",
    "output": "out",
    "save_dir": "out",
    "run_name": "name",
    "gpu": "gpus",
    "accelerator": "device",
    "devices": "nproc",
    "processes": "nproc",
    "dataset_path": "data",
    "data_dir": "data",
    "root": "data",
    "warmup": "warmup_epochs",
    "finetune": "init_from",
    "weights": "init_from",
    "checkpoint": "resume",
    "mixed_precision": "precision",
    "half": "precision",
    "limit_train_batches": "max_train_samples",
    "logger": "track",
    "random_erasing": "reprob",
    "metric": "monitor",
}


def nearest_setting(name: str) -> str | None:
    """The setting that a word means, by what other trainers call it, else by spelling; None where none is near."""
    name = name.replace("-", "_").lower()
    if name in _OTHERS_CALL_IT:
        return _OTHERS_CALL_IT[name]
    near = difflib.get_close_matches(name, Config.model_fields, n=1)
    return near[0] if near else None

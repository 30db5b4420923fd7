"""What the README's results show: ``GRIDS`` (one file each, methods against metrics), ``LINES`` (figures)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """One results file as a table: figure ``<row>.<column>`` in each cell, printed as ``columns`` says.

    ``rows`` maps figure prefixes to labels; ``columns`` figure names to (label, format).
    """

    title: str
    file: str
    rows: Mapping[str, str]
    columns: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Line:
    """One figure: ``text`` says what it is, ``form`` prints it, ``goal`` is what was aimed at."""

    text: str
    file: str
    figure: str
    form: str
    goal: str


_QUALITY = {
    "map_50": ("mAP at .50", "{:.3f}"),
    "map": ("mAP", "{:.3f}"),
    "pmf1": ("pmF1", "{:.3f}"),
    "il_mcc": ("IL_MCC", "{:.3f}"),
}
_COST = {
    "trainable_share": ("trained", "{:.1%}"),
    "minutes": ("minutes", "{:.0f}"),
    "peak_gib": ("peak GiB", "{:.1f}"),
}

_RECIPES = {
    "supervised": "supervised: the labelled images alone",
    "guide": "guide: S4GAN as in the field notes",
    "sound": "sound: cues removed, teacher, strong views",
    "sound_without_d": "sound without the discriminator",
    "consistency": "consistency: mean teacher with CutMix",
}
_FEW_LABELS = {
    "miou": ("test mIoU", "{:.3f}"),
    "miou.std": ("± over seeds", "{:.3f}"),
    "lr": ("rate", "{:g}"),
}
_DIFFERENCES = {
    "sound_minus_supervised": "sound minus supervised",
    "guide_minus_supervised": "guide minus supervised",
    "sound_without_d_minus_supervised": "sound without the discriminator minus supervised",
    "consistency_minus_supervised": "consistency minus supervised",
    "sound_minus_sound_without_d": "sound minus its twin without the discriminator",
    "sound_minus_consistency": "sound minus consistency",
}
_SHARES = {"1_4": "1/4 of the labels", "1_16": "1/16"}

_POINTS = {
    "f1_9_6": ("F1 at 9.6 px", "{:.3f}"),
    "f1_19_2": ("F1 at 19.2 px", "{:.3f}"),
    "count_mae": ("count MAE", "{:.2f}"),
    "exact": ("exact count", "{:.2f}"),
    "minutes": ("minutes", "{:.0f}"),
}
_POINT_SETS = {
    "dsb2018": "Points on nuclei, 41 test images of 256 x 256 px with 5 to 50 of them, three seeds",
    "dsb2018_crops": "Points on nuclei, 256 px windows of all test images, three seeds",
    "bccd": "Points on blood cells, box centres of 72 test images, three seeds",
}
_CLAIMS = {
    "tighter_threshold": "threshold 0.1 gives smaller pixel errors than 0.3 (px)",
    "funnel_over_mse": "the funnel gives smaller pixel errors than MSE (px)",
    "tighter_threshold_pulls_harder": "threshold 0.1 pulls harder at 30 px than 0.3 (gradient, times)",
    "mse_pulls_alike": "MSE pulls alike at 10 and 100 px (gradient, times)",
    "threshold_0_3_is_57_px": "a threshold of 0.3 covers 57 px (px)",
    "done_share_is_0_03": "3 % of validation states are finished (share)",
    "done_weight": "three times the done loss tells the end better (AUROC)",
    "done_weight_raises_done": "three times the done loss makes the model say done (highest probability)",
    "more_done_states": "more finished states in sampling tell the end better (AUROC)",
    "overfits": "validation loss rises again (last over lowest)",
    "huber_over_funnel": "not claimed: Huber over funnel 0.3 (px)",
    "pos_weight_over_weight": "not claimed: weight of finished states over that of all (AUROC)",
    "mixed_over_balanced": "not claimed: mixed over balanced sampling (count MAE)",
    "sound_over_guide": "not claimed: our defaults over the notes' form (F1 at 9.6 px)",
    "default_over_uniform": "our defaults over uniform sampling (F1 at 9.6 px)",
    "default_over_balanced": "our defaults over balanced sampling (F1 at 9.6 px)",
    "default_over_mse": "our defaults over MSE of the offsets (F1 at 9.6 px)",
    "default_over_reading": "our defaults over reading order (F1 at 9.6 px)",
    "default_over_nearest": "our defaults over nearest order (F1 at 9.6 px)",
    "default_over_free": "our defaults over free order (F1 at 9.6 px)",
    "default_over_true_marks": "our defaults over true marks (F1 at 9.6 px)",
    "default_over_jitter": "our defaults over true marks with jitter (F1 at 9.6 px)",
    "default_over_noise": "our defaults over true marks with all noise (F1 at 9.6 px)",
    "default_over_funnel_0_3": "our defaults over the funnel 0.3 for offsets (F1 at 9.6 px)",
    "default_over_funnel_0_1": "our defaults over the funnel 0.1 for offsets (F1 at 9.6 px)",
    "default_over_without_cells": "our defaults over no loss of cells (F1 at 9.6 px)",
    "default_over_averaged": "our defaults over averaged weights (F1 at 9.6 px)",
}
_FORMS = {
    "funnel_0_3": "notes' form: funnel 0.3",
    "funnel_0_1": "funnel 0.1",
    "huber": "Huber",
    "mse": "MSE",
    "balanced": "balanced sampling",
    "mixed": "mixed sampling",
    "done_weight_1": "done weight 1",
    "pos_weight": "finished states weighted",
    "sound": "sound form: our defaults",
    "sound_uniform": "uniform sampling",
    "sound_balanced": "balanced sampling, sound",
    "sound_mse": "MSE, sound",
    "sound_funnel_0_3": "funnel 0.3, sound",
    "sound_funnel_0_1": "funnel 0.1, sound",
}

GRIDS = (
    Grid(
        "The small base on real nuclei (dsb2018, 97 whole test images, mask figures)",
        "base",
        {
            "dsb2018.zero_shot": "small base, as shipped",
            "dsb2018.adapter_10": "LoRA adapter from 10 images, three seeds",
            "dsb2018.adapter_50": "LoRA adapter from 50 images, three seeds",
            "dsb2018.adapter_all": "LoRA adapter from all 383 images",
            "dsb2018.full": "full fine-tuning",
            "dsb2018.heads": "heads only",
            "dsb2018.classical": "Otsu and split, nothing trained",
        },
        _QUALITY | _COST,
    ),
    Grid(
        "The small base on blood cells (bccd, 72 whole test images, box figures)",
        "base",
        {"bccd.zero_shot": "small base, as shipped", "bccd.adapter": "LoRA adapter from 205 images"},
        _QUALITY | _COST,
    ),
    Grid(
        "What is kept: generated scenes that no training meets, before and after adapting to nuclei",
        "base",
        {
            "generated": "small base, as shipped",
            "retention": "the adapter from all images above",
            "retention.no_rehearsal": "without generated scenes beside its batches",
            "retention.no_negatives": "likewise, and without negative phrases",
            "retention.train_text": "likewise with negatives, and the text encoder trained",
        },
        {
            "map_50": ("mAP at .50", "{:.3f}"),
            "map_50_drop": ("fallen by", "{:.3f}"),
            "il_mcc": ("IL_MCC", "{:.3f}"),
            "il_mcc_drop": ("fallen by", "{:.3f}"),
            "nuclei_val_map_50": ("mAP at .50, nuclei val", "{:.3f}"),
        },
    ),
    Grid(
        "What makes the small base learn from nothing (stage 1, 600 steps, raw losses on new scenes)",
        "pretraining",
        {
            "recipe": "the recipe",
            "one_to_one": "one query per object in every layer",
            "no_semantic": "without the dense output",
            "words_at_once": "with words from the first step on",
        },
        {
            "giou": ("GIoU loss", "{:.3f}"),
            "box": ("L1 of boxes", "{:.3f}"),
            "dice": ("dice of masks", "{:.3f}"),
            "minutes": ("minutes", "{:.0f}"),
        },
    ),
    Grid(
        "CamVid, 46 of 367 images labelled, 11 classes, three seeds",
        "s4gan_camvid",
        _RECIPES,
        _FEW_LABELS,
    ),
    Grid(
        "The same, differences of test mIoU paired by seed, with 95 % intervals",
        "s4gan_camvid",
        _DIFFERENCES,
        {
            "miou": ("difference", "{:+.3f}"),
            "miou.low": ("from", "{:+.3f}"),
            "miou.high": ("to", "{:+.3f}"),
        },
    ),
    Grid(
        "CamVid, other shares of labels, one seed",
        "s4gan_camvid",
        {
            f"{share}.{recipe}": f"{label}, {recipe}"
            for share, label in _SHARES.items()
            for recipe in _RECIPES
        },
        _FEW_LABELS,
    ),
    Grid("Nuclei as classes, 24 of 383 images labelled, one seed", "s4gan_dsb2018", _RECIPES, _FEW_LABELS),
    *(
        Grid(
            title,
            "points",
            {
                name: "points, one after another",
                f"{name}.one_shot": "one-shot control: the same encoder, all at once",
                f"{name}.classical": "Otsu and distance peaks, nothing trained",
                f"{name}.log": "Laplacian of Gaussian, nothing trained",
                f"{name}.mean_count": "the mean count, evenly spread",
                f"{name}.grid": "the best square grid",
            },
            _POINTS,
        )
        for name, title in _POINT_SETS.items()
    ),
    Grid(
        "Claims of the field notes on points, in short trainings of three seeds (1 holds, 0 does not)",
        "points_claims",
        _CLAIMS,
        {
            "holds": ("holds", "{:.0f}"),
            "decided": ("95 % sure", "{:.0f}"),
            "by": ("by", "{:.3g}"),
        },
    ),
    Grid(
        "Form by form, loss by loss, sampling by sampling, in the same short trainings",
        "points_claims",
        {f"runs.{name}": label for name, label in _FORMS.items()},
        {
            "pixel_error": ("pixel error", "{:.1f}"),
            "f1_9_6": ("F1 at 9.6 px", "{:.3f}"),
            "count_mae": ("count MAE", "{:.2f}"),
            "done_auroc": ("done AUROC", "{:.3f}"),
        },
    ),
    Grid(
        "Blood cells (bccd, 72 test images) with a detector of 3 million parameters",
        "detr_bccd",
        {
            "scratch": "RT-DETR v2, random weights",
            "init_from": "RT-DETR v2, from generated scenes",
            "pretrain": "that pretraining",
        },
        {
            "map_50": ("mAP at .50", "{:.3f}"),
            "map": ("mAP", "{:.3f}"),
            "ap.RBC": ("AP, RBC", "{:.3f}"),
            "ap.WBC": ("AP, WBC", "{:.3f}"),
            "ap.Platelets": ("AP, platelets", "{:.3f}"),
            "minutes": ("minutes", "{:.0f}"),
            "peak_gib": ("peak GiB", "{:.1f}"),
        },
    ),
    Grid(
        "What keeps a DETR stable: nuclei as boxes, three seeds",
        "detr_recipe",
        {
            "stable": "the stable recipe",
            "zero_padding": "with black padding",
            "no_pixel_mask": "without the pixel mask",
            "double_rate": "at 1e-4",
            "no_clipping": "without clipping",
            "no_schedule": "at a constant rate",
            "no_decay": "without weight decay",
            "earlier": "the earlier recipe: all of these",
        },
        {
            "loss_std": ("spread of batch loss", "{:.3f}"),
            "loss_spread": ("relative", "{:.3f}"),
            "loss_jump": ("largest jump", "{:.2f}"),
            "map_50": ("mAP at .50", "{:.3f}"),
            "map": ("mAP", "{:.3f}"),
            "minutes": ("minutes", "{:.0f}"),
        },
    ),
    Grid(
        "Faults in real trainings, found and named",
        "health",
        {
            "monitors.maskwell": "maskwell",
            "monitors.lightning_spike": "Lightning SpikeDetection",
            "monitors.lightning_early_stopping": "Lightning EarlyStopping",
            "monitors.kill_loss_spike": "KillLossSpike",
            "monitors.olmo": "OLMo-core",
            "monitors.megatron": "Megatron",
            "monitors.zclip": "ZClip",
            "monitors.sagemaker": "SageMaker Debugger",
            "monitors.autotrainer": "AutoTrainer",
            "monitors.umlaut": "UMLAUT",
            "monitors.null": "says nothing",
            "monitors.always": "says everything",
        },
        {
            "detection": ("found", "{:.1%}"),
            "top1": ("cause named first", "{:.1%}"),
            "precision": ("named causes that are right", "{:.1%}"),
            "healthy_flagged": ("healthy runs flagged", "{:.1%}"),
            "false_per_1000": ("false alarms / 1000 steps", "{:.3f}"),
            "latency.median": ("steps until found", "{:.0f}"),
        },
    ),
)

LINES = (
    Line("Small base, parameters", "base", "parameters", "{:,.0f}", ""),
    Line("Small base, files", "base", "megabytes", "{:.1f} MB", "≤ 12 MB"),
    Line("Small base, one image and prompt on two cores", "base", "latency_ms", "{:.0f} ms", "≤ 150 ms"),
    Line("Small base, mask mAP at .50 on generated scenes", "base", "generated.map_50", "{:.3f}", "≥ 0.70"),
    Line("Small base, the same on crowds of 9 to 100", "base", "generated.crowds.map_50", "{:.3f}", ""),
    Line("Small base, IL_MCC on generated scenes", "base", "generated.il_mcc", "{:.3f}", "≥ 0.80"),
    Line("Nuclei, adapter", "base", "dsb2018.adapter_all.map_50", "{:.3f}", "≥ 0.70"),
    Line("Nuclei, adapter / full", "base", "dsb2018.adapter_all.share_of_full", "{:.1%}", "≥ 95 %"),
    Line("Kept scenes, mAP at .50 lost", "base", "retention.map_50_drop", "{:.3f}", "≤ 0.05"),
    Line("Kept scenes, IL_MCC lost", "base", "retention.il_mcc_drop", "{:.3f}", "≤ 0.05"),
    Line("`train.py --help`", "start", "help_s", "{:.1f} s", "≤ 2 s"),
    Line("`train.py`, to the first step", "start", "first_step_s", "{:.1f} s", "≤ 12 s"),
    Line("Sample data, 280 images", "start", "cells_s", "{:.1f} s", "≤ 20 s"),
    Line("COCO mAP, speed against pycocotools", "coco_map", "speedup", "{:.0f}×", "≥ 10×"),
    Line("COCO mAP, largest difference from pycocotools", "coco_map", "max_abs_diff", "{:.0e}", "< 1e-6"),
    Line("Loader, speed against annToMask and PIL", "loader", "speedup", "{:.1f}×", "≥ 2×"),
    Line("Five prompts, step time against one", "prompts", "ratio_5_to_1", "{:.2f}", ""),
    Line("Five prompts, step time against five images", "prompts", "ratio_5_to_repeated", "{:.2f}", "≤ 0.65"),
    Line(
        "ONNX of s4gan, largest difference from PyTorch", "export", "s4gan.max_abs_diff", "{:.0e}", "< 1e-3"
    ),
    Line("ONNX of points, the same", "export", "points.max_abs_diff", "{:.0e}", "< 1e-3"),
    Line("ONNX of detr, the same", "export", "detr.max_abs_diff", "{:.0e}", "< 1e-3"),
    Line("ONNX of the vision part of sam_lora, the same", "export", "sam_lora.vision", "{:.0e}", "< 1e-3"),
    Line("Merged sam_lora against its adapter", "export", "sam_lora.merged", "{:.0e}", "< 1e-3"),
    Line("Commands of this page, run in a clean clone", "readme", "run", "{:.0f}", ""),
    Line("Commands of this page that failed there", "readme", "failed", "{:.0f}", "0"),
    Line("Notebook of sam_lora", "notebooks", "sam_lora.seconds", "{:.0f} s", "≤ 180 s"),
    Line("Notebook of s4gan", "notebooks", "s4gan.seconds", "{:.0f} s", "≤ 180 s"),
    Line("Notebook of points", "notebooks", "points.seconds", "{:.0f} s", "≤ 180 s"),
    Line("Notebook of detr", "notebooks", "detr.seconds", "{:.0f} s", "≤ 180 s"),
    Line("Mask loss, memory dense / sampled at 1008 px", "mask_loss", "memory_ratio", "{:.0f}×", "≥ 10×"),
    Line(
        "CamVid 1/8, sound above supervised",
        "s4gan_camvid",
        "sound_minus_supervised.miou",
        "{:+.3f}",
        "≥ +0.04",
    ),
    Line(
        "CamVid 1/8, what the discriminator earns",
        "s4gan_camvid",
        "sound_minus_sound_without_d.miou",
        "{:+.3f}",
        "≥ 0",
    ),
    Line("Points on nuclei, F1 at 9.6 px", "points", "dsb2018.f1_9_6", "{:.3f}", "≥ 0.95"),
    Line("the same, count MAE", "points", "dsb2018.count_mae", "{:.2f}", "≤ 1.0"),
    Line(
        "the same, F1 above the one-shot control",
        "points",
        "dsb2018.ours_minus_one_shot.f1_9_6",
        "{:+.3f}",
        "≥ 0",
    ),
    Line(
        "the same, F1 above the classical one",
        "points",
        "dsb2018.ours_minus_classical.f1_9_6",
        "{:+.3f}",
        "> 0",
    ),
    Line("Points on blood cells, F1 at 19.2 px", "points", "bccd.f1_19_2", "{:.3f}", "≥ 0.85"),
    Line("the same, count MAE", "points", "bccd.count_mae", "{:.2f}", "≤ 1.5"),
    Line("S4GAN step, speed against four passes", "s4gan_step", "speedup", "{:.2f}×", "≥ 1.15×"),
    Line("S4GAN step, time of a supervised one", "s4gan_step", "cost_over_supervised", "{:.1f}×", ""),
    Line(
        "Blood cells, detector from random weights, mAP at .50",
        "detr_bccd",
        "scratch.map_50",
        "{:.3f}",
        "≥ 0.75",
    ),
    Line(
        "Blood cells, from generated scenes, mAP at .50", "detr_bccd", "init_from.map_50", "{:.3f}", "≥ 0.85"
    ),
    Line("SAM 3 (840 M) LoRA step on a GPU", "sam3_full_gpu", "seconds_per_iteration", "{:.2f} s", "0.3 s"),
    Line("Points: 21 marks on one image, in forward passes", "points_rollout", "ratio_21", "{:.2f}", "≤ 3"),
    Line(
        "Points: training steps, speed against encoding anew for every state",
        "points_rollout",
        "train_speedup",
        "{:.1f}×",
        "",
    ),
    Line("SAM 3 (840 M) LoRA peak memory", "sam3_full_gpu", "peak_gib", "{:.1f} GiB", "< 24 GiB"),
    Line("Monitor: faults found", "health", "detection", "{:.1%}", "≥ 95 %"),
    Line(
        "Monitor: faults found of those that no rule was designed on",
        "health",
        "held_out.detection",
        "{:.1%}",
        "≥ 90 %",
    ),
    Line("Monitor: healthy runs flagged", "health", "healthy_flagged", "{:.1%}", "≤ 2 %"),
    Line("Monitor: false alarms per 1000 healthy steps", "health", "false_per_1000", "{:.3f}", "≤ 0.01"),
    Line("Monitor: cause named first", "health", "top1", "{:.1%}", "≥ 80 %"),
    Line("Monitor: named causes that are right", "health", "precision", "{:.1%}", "≥ 80 %"),
    Line("Monitor: steps until NaN is found, median", "health", "latency.nonfinite.median", "{:.0f}", "≤ 1"),
    Line(
        "Monitor: steps until a broken invariant is found, median",
        "health",
        "latency.invariant.median",
        "{:.0f}",
        "≤ 1",
    ),
    Line("Monitor: steps until a shift is found, median", "health", "latency.shift.median", "{:.0f}", "≤ 32"),
    Line(
        "Monitor: steps until divergence is found, median",
        "health",
        "latency.divergence.median",
        "{:.0f}",
        "≤ 64",
    ),
    Line("Monitor: runs mended by the first printed override", "health", "remedy", "{:.1%}", ""),
    Line("Monitor: runs that recover by themselves", "health", "recovery", "{:.1%}", "≥ 80 %"),
    Line("`diagnose` of a CSV of 10 million rows, CPU time", "long_log", "cpu_seconds", "{:.0f} s", ""),
    Line("The same, memory", "long_log", "peak_mib", "{:.0f} MiB", ""),
    Line("Monitor: cost at steps of 50 ms", "health", "overhead.50_ms.share", "{:.1%}", "≤ 1 %"),
    Line("Monitor: cost at steps of 10 ms", "health", "overhead.10_ms.share", "{:.1%}", "≤ 3 %"),
    Line("Runs killed at random moments", "resume", "kills", "{:.0f}", "≥ 120"),
    Line("Resumed runs that differ", "resume", "mismatches", "{:.0f}", "0"),
    Line("Hostile inputs", "fuzz", "inputs", "{:,.0f}", "≥ 20,000"),
    Line("Tracebacks", "fuzz", "tracebacks", "{:.0f}", "0"),
    Line("Two processes against one, gradients of SAM-LoRA", "ddp", "sam_lora.max_abs_diff", "{:.0e}", ""),
    Line("Two processes against one, gradients of S4GAN", "ddp", "s4gan.max_abs_diff", "{:.0e}", ""),
    Line("Two processes against one, gradients of points", "ddp", "points.max_abs_diff", "{:.0e}", ""),
    Line("Two processes against one, gradients of DETR", "ddp", "detr.max_abs_diff", "{:.0e}", ""),
    Line("Step against a bare loop, SAM-LoRA", "overhead", "sam_lora.ratio", "{:.3f}×", "≤ 1.03×"),
    Line("the same, Lightning's loop alone", "overhead", "sam_lora.lightning_alone", "{:.3f}×", ""),
    Line("Step against a bare loop, S4GAN", "overhead", "s4gan.ratio", "{:.3f}×", "≤ 1.03×"),
    Line("the same, Lightning's loop alone", "overhead", "s4gan.lightning_alone", "{:.3f}×", ""),
    Line("Step against a bare loop, points", "overhead", "points.ratio", "{:.3f}×", "≤ 1.03×"),
    Line("the same, Lightning's loop alone", "overhead", "points.lightning_alone", "{:.3f}×", ""),
    Line("Step against a bare loop, DETR", "overhead", "detr.ratio", "{:.3f}×", "≤ 1.03×"),
    Line("the same, Lightning's loop alone", "overhead", "detr.lightning_alone", "{:.3f}×", ""),
    Line("Memory that 2,000 steps add", "overhead", "memory_growth_mib", "{:.0f} MiB", ""),
)

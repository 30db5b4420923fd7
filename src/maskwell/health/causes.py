"""What can be wrong with a training: the labels that rules vote for and that incidents are ranked by."""

from __future__ import annotations

CAUSES: dict[str, str] = {
    # data
    "no_targets": "the targets are empty: annotations are not read, or none survives prompts and crops",
    "input_scale": "the images are not normalised as the network expects",
    "box_format": "the boxes have another format or scale than the loss expects",
    "label_error": "labels are wrong: out of range, shifted, or noisy",
    "not_shuffled": "the data is not shuffled, or its iterator starts again and again",
    "leakage": "validation data is in the training data",
    "split_mismatch": "training and validation data differ, in content or in how they are prepared",
    "bad_sample": "the data holds values that are not finite, or single broken samples",
    "imbalance": "some classes or answers are far rarer than others",
    # loss
    "not_normalised": "the loss is not divided by the number of objects, pixels or images it sums over",
    "loss_weight": "one term outweighs the rest of the loss",
    "wrong_activation": "the loss is applied to the wrong thing: an activation twice, or none",
    "wrong_sign": "a term of the loss has the wrong sign",
    "dead_component": "a term of the loss contributes nothing",
    # optimisation
    "lr_high": "the learning rate is too high",
    "lr_low": "the learning rate is too low",
    "schedule": "the learning rate does not follow its schedule",
    "no_zero_grad": "gradients are not set to zero between steps",
    "not_optimised": "parameters are not trained: no gradient, frozen, or in no optimiser",
    "clip": "gradient clipping does not do what it is configured to do",
    "no_warmup": "training starts at the full learning rate without a warm-up",
    "optimizer_state": "the state of the optimiser was lost or does not fit, as after a resume",
    "batch_size": "the batch is too small or too large for the noise of its gradients",
    # numerics
    "overflow": "numbers overflow: the precision is too low for what is computed",
    "bad_weights": "weights, buffers or the optimiser's state are not finite",
    # dynamics
    "bad_batch": "single batches are outliers",
    "shift": "the loss jumped to another level",
    "divergence": "the training diverges",
    "overfit": "the model learns the training data by heart",
    "plateau": "the training has stopped to improve",
    "architecture": "what the network answers does not depend on its input as it should",
    "evaluation": "what is evaluated is not what is trained, or is evaluated wrongly",
    # task
    "pseudo_threshold": "the threshold of the pseudo-labels lets too few or too many through",
    "pseudo_collapse": "the pseudo-labels have collapsed to few classes or to the model's own errors",
    "d_strong": "the discriminator is too strong for the generator",
    "d_weak": "the discriminator does not learn",
    "d_input": "the discriminator sees real and predicted pairs on different scales",
    "done_balance": "the answer 'no more objects' is far rarer or commoner than its opposite",
    "no_matches": "predictions are not matched to objects",
    "degenerate": "the predictions are all the same, empty or full",
    # system
    "memory": "memory runs out",
    "leak": "memory use grows all the time",
    "stall": "the training stands still",
    "slow_data": "the training waits for its data",
    "slow": "steps have become slower",
    "desync": "the processes of a parallel training hold different weights",
    "hardware": "the same step gives another result when it is repeated",
    "checkpoint": "checkpoints are missing, damaged or not worth going back to",
    "config": "the configuration contradicts itself",
}
"""Label -> what it means, in plain words."""

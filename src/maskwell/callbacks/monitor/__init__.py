"""The parts of :class:`~maskwell.callbacks.loss_health.LossHealth`: what it measures, and how it acts."""

"""The proof of the health monitor: faults injected into real trainings."""

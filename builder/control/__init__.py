"""The control side as a process: dispatch, finalizers, reconcile, report, each a loop that is woken or ticks."""

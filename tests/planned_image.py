"""What a plan makes, where that is an image."""

from __future__ import annotations

from builder.plan import Output, Plan


def image_of(plan: Plan) -> Output:
    """The image that a plan makes. A component fails the test."""
    assert isinstance(plan.output, Output), plan.output
    return plan.output

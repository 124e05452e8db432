"""Steps, meta-gradients and Hessian products of ``MLP`` in closed form; ``fmlab.objective`` alone asks for them."""

from fmlab.closed_form.programs import Programs

__all__ = ["Programs"]

"""Programs as data: what can be done with a function once its program (the jaxpr) is read."""

from jaxinterp.interpreters._ir import Program as Program
from jaxinterp.interpreters._ir import detached as detached
from jaxinterp.interpreters._ir import trace as trace
from jaxinterp.interpreters._loop_safe import loop_safe as loop_safe

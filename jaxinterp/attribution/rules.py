"""The tables of backward rules: extend them for primitives that a propagation method does not know.

Each table belongs to the method of its name. A rule gets a `jaxinterp.interpreters.Call` and returns the cotangents of
the inputs, one array for each. For `lrp` a cotangent is a relevance divided by the value it belongs to (so that the
relevance of an input is its value times its cotangent), for `deep_lift` a multiplier.

A rule comes before what the method does by itself. Activations and normalisers are found as a whole; one that holds a
primitive with a rule is taken apart, equation by equation.

>>> import jax
>>> from jaxinterp import interpreters
>>> table = lrp.copy()
>>> @table.define(interpreters.primitives.cumprod)
... def as_gradient(call):
...     return call.pull(call.cotangents)
"""

from jaxinterp.interpreters import Rules

lrp = Rules("lrp")
deep_lift = Rules("deep_lift")
guided_backprop = Rules("guided_backprop")
deconvolution = Rules("deconvolution")

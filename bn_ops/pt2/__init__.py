"""`.pt2` files, read as data.

`torch.export.save` writes programs, and `torch.export.load` runs what they say: at least six parts
of such a file can hold code (pickled weights, opaque constants, sample inputs, shared libraries,
symbolic expressions, guards). `load_pt2` therefore never gives a file to torch as it came: it reads
the parts that describe a network, checks each against a list of what is allowed, and loads a new
file made of them alone.

What is not on the list is refused, so what a later version of torch adds is refused too until
somebody has looked at it. In the service this happens inside the worker's sandbox all the same.
"""

from __future__ import annotations

from bn_ops.pt2._load import load_pt2

__all__ = ["load_pt2"]

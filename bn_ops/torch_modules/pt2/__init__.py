"""Read `.pt2` files as data.

`torch.export.save` writes programs, and `torch.export.load` may run code from them: at least six
parts of such a file can contain code (pickled weights, opaque constants, sample inputs, shared
libraries, symbolic expressions, guards). `load_pt2` therefore never passes the original file to
torch: it reads the parts that describe a network, checks each against a list of allowed parts, and
loads a new file that consists only of them.

Parts that are not on the list are rejected, including additions of later versions of torch until
they have been reviewed. The service additionally loads files inside the worker's sandbox.
"""

from __future__ import annotations

from bn_ops.torch_modules.pt2._load import load_pt2

__all__ = ["load_pt2"]

"""thalweg trains networks for science: one landscape of named terms, one walk over it, and whether to trust the result.

The public names are listed in `__init__.pyi`; each loads its module (and JAX) only when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

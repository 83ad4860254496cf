"""Find where domain shift enters a segmentation network, what to change, and how sure that is.

The public names stand in ``__init__.pyi``; each loads on first use, so that ``import skipshift``
does not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

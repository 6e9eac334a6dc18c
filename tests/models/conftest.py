"""Every model by name, fitted once a session."""

import pytest
from helpers import make_quick

from recsys_lab.models.base import MODELS


@pytest.fixture(params=sorted(MODELS.own()))
def name(request):
    return request.param


@pytest.fixture(scope="session")
def fits_of():
    """Fitted models by name: each is fitted once, and no test may change one."""
    return {}


@pytest.fixture
def fitted(name, shop_split, fits_of):
    if name not in fits_of:
        fits_of[name] = make_quick(name).fit(shop_split.known("test"))
    return fits_of[name]

import pytest
import torch

from toy_unet import toy_images, toy_net


@pytest.fixture
def home():
    return toy_images()


@pytest.fixture
def net(home):
    return toy_net(torch.from_numpy(home).float() / 255)

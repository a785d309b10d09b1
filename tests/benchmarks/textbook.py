"""The same training as public scripts have it, which ours is timed against.

PyTorch's modules, fp32, NCHW, PIL transforms in DataLoader workers, loss and error read on the host at every step. On a
GPU also as the best-known one: DataParallel, convolutions in TF32, cuDNN's fastest kernels, pinned memory.
"""

from collections.abc import Iterator
from pathlib import Path

import common
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2 as transforms

from study.data.arrays import load
from study.spec import Trial


class Pictures(Dataset):
    """The trial's images as PIL pictures, augmented one by one."""

    def __init__(self, its: Trial) -> None:
        data, to_pil = load(its.data, Path()), transforms.ToPILImage()
        self.pictures, self.labels = [to_pil(image) for image in data.train_images], data.train_labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToImage(),
                transforms.ToDtype(torch.float32, scale=True),
                transforms.Normalize([0.5] * 3, [0.25] * 3),
            ]
        )

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        index %= len(self.labels)
        return self.transform(self.pictures[index]), self.labels[index]


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride > 1:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return functional.relu(out + x)


def net_of(depth: int) -> nn.Module:
    """The net as PyTorch's modules write it; PyTorch's own initialisation, which costs the same."""
    blocks, inputs = (depth - 2) // 6, 16
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for width in (16, 32, 64):
        for index in range(blocks):
            layers.append(Block(inputs, width, 2 if width > 16 and index == 0 else 1))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def train(its: Trial, device: torch.device | str = "cpu", workers: int = 2) -> Iterator[None]:
    """The script; one item an iteration."""
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    net: nn.Module = net_of(its.model.depth).to(device)
    if on_gpu:
        net = nn.DataParallel(net)
        torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.deterministic = False
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(Pictures(its), batch_size=common.BATCH, shuffle=True, num_workers=workers, pin_memory=on_gpu)
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        logits = net(images)
        loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item(), (logits.argmax(1) == labels).sum().item()
        yield

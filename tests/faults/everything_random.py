"""A config in which everything draws random numbers that can: augmentation, dropout, layer-wise rates, two workers.

pochi verify-resume --config tests/faults/everything_random.py
"""

from torch import nn
from torchvision import models, transforms

from pochitrain import digits_folder

train_data_root = digits_folder() / "train"
val_data_root = digits_folder() / "val"
batch_size = 64
num_workers = 2

train_transform = transforms.Compose(
    [
        transforms.RandomResizedCrop(32, scale=(0.7, 1.0)),
        transforms.RandomAffine(degrees=15, translate=(0.1, 0.1), shear=5),
        transforms.ColorJitter(brightness=0.3, contrast=0.3),
        transforms.GaussianBlur(3),
        transforms.ToTensor(),
        transforms.RandomErasing(p=0.5),
    ]
)
val_transform = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])


def model(num_classes: int) -> nn.Module:
    net = models.resnet18(num_classes=num_classes)
    net.fc = nn.Sequential(nn.Dropout(0.3), nn.Linear(net.fc.in_features, num_classes))
    return net


optimizer = "SGD"
optimizer_params = {"momentum": 0.9, "nesterov": True}
learning_rate = 0.01
scheduler = "StepLR"
scheduler_params = {"step_size": 1, "gamma": 0.7}
enable_layer_wise_lr = True
layer_wise_lr_config = {"layer_rates": {"conv1": 0.001, "layer1": 0.002, "layer4": 0.01, "fc": 0.05}}
enable_gradient_tracking = True
epochs = 8

"""A config is one Python file. `uv run pochi train` runs this one; copy it and change two paths for your own images.

設定は 1 つの Python ファイルです. `uv run pochi train` でこのまま訓練できます.
自分の画像で訓練するには, コピーして 2 つのパスを書き換えてください.
"""

from torchvision import transforms

from pochitrain import digits_folder

# ---------------------------------------------------------------- Data / データ
# One folder per class / クラスごとに 1 フォルダー:  data/train/cat/*.jpg  data/train/dog/*.jpg  data/val/cat/*.jpg …
# For your own images / 自分の画像では:
#   train_data_root = "data/train"
#   val_data_root = "data/val"  # "auto": a part of the training images / 訓練データの一部
train_data_root = digits_folder() / "train"  # scikit-learn's handwritten digits, written once as PNG files
val_data_root = digits_folder() / "val"  # None: no validation / 検証なし
batch_size = 64
num_workers = 0  # processes that load images; try half to all of your CPU cores / CPU コア数の 1/2〜1 倍
# on_bad_image = "skip"  # leave unreadable images out instead of stopping / 読めない画像を除外

# ---------------------------------------------------------------- Model / モデル
model_name = "resnet18"  # "resnet18", "resnet34", "resnet50", or any classification model of torchvision
pretrained = False  # True: start from ImageNet weights (best for photographs) / 写真には True を推奨
# num_classes = 10  # found from the folders by itself / フォルダーから自動で決まる

# ---------------------------------------------------------------- Training / 訓練
epochs = 8  # raise it later: the run continues / 後で増やすと続きから訓練
learning_rate = 0.002
optimizer = "AdamW"  # "Adam", "AdamW", "SGD", or a function of your own / 自作の関数も可
# optimizer_params = {"weight_decay": 0.05}
scheduler = "ExponentialLR"
scheduler_params = {"gamma": 0.75}
# scheduler = "CosineAnnealingLR"; scheduler_params = {"T_max": 8}  # as many as epochs / 通常は epochs と同じ値
# scheduler = "StepLR"; scheduler_params = {"step_size": 30, "gamma": 0.1}
# scheduler = "MultiStepLR"; scheduler_params = {"milestones": [30, 60, 90], "gamma": 0.1}
# scheduler = "LinearLR"; scheduler_params = {"start_factor": 1.0, "end_factor": 0.1, "total_iters": 100}
# scheduler = "ReduceLROnPlateau"; scheduler_params = {"factor": 0.1, "patience": 5}
# scheduler = None; scheduler_params = None
class_weights = None  # None: balanced by itself / 自動調整.  "uniform", or a list / リスト: [1.0, 2.0, …]
seed = 42

# ---------------------------------------------------------------- Transforms / データ変換
mean = [0.5, 0.5, 0.5]  # photographs / 写真: [0.485, 0.456, 0.406]
std = [0.25, 0.25, 0.25]  # photographs / 写真: [0.229, 0.224, 0.225]

train_transform = transforms.Compose(
    [
        transforms.Resize((32, 32)),
        transforms.RandomAffine(degrees=10, translate=(0.1, 0.1)),
        transforms.ToTensor(),  # required / 必須
        transforms.Normalize(mean=mean, std=std),
    ]
)
val_transform = transforms.Compose(
    [
        transforms.Resize((32, 32)),
        transforms.ToTensor(),
        transforms.Normalize(mean=mean, std=std),
    ]
)
# For photographs / 写真の場合:
# train_transform = transforms.Compose([
#     transforms.RandomResizedCrop(224),
#     transforms.RandomHorizontalFlip(p=0.5),
#     transforms.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
#     transforms.ToTensor(),
#     transforms.Normalize(mean=mean, std=std),
# ])
# val_transform = transforms.Compose([
#     transforms.Resize(256),
#     transforms.CenterCrop(224),
#     transforms.ToTensor(),
#     transforms.Normalize(mean=mean, std=std),
# ])

# ---------------------------------------------------------------- Layer-wise learning rates / 層別学習率
enable_layer_wise_lr = False
layer_wise_lr_config = {
    "layer_rates": {  # pattern → rate; the first match wins; 0 freezes / 先に書いたものが優先. 0 は凍結
        "conv1": 0.0001,
        "bn1": 0.0001,
        "layer1": 0.0002,
        "layer2": 0.0005,
        "layer3": 0.001,
        "layer4": 0.002,
        "fc": 0.01,
    },
    "graph_config": {"use_log_scale": False},
}

# ---------------------------------------------------------------- Early stopping / 早期終了
early_stopping = {
    "enabled": False,
    "patience": 30,
    "min_delta": 3.0,  # percent points; 0.0: any gain counts / パーセントポイント. 0.0 なら少しでも良くなれば改善
    "monitor": "val_accuracy",  # or "val_loss"; also decides which epoch is best / 最良エポックの基準
}

# ---------------------------------------------------------------- Gradient tracing / 勾配トレース
enable_gradient_tracking = False
gradient_tracking_config = {
    "record_frequency": 1,
    "exclude_patterns": ["fc\\.", "\\.bias"],
    "group_by_block": True,
    "aggregation_method": "median",  # "median", "mean", "max", "rms"
}

# ---------------------------------------------------------------- Output / 出力
work_dir = "work_dirs"
enable_metrics_export = True  # CSV and graphs / CSV とグラフ
enable_tensorboard = False
# tags = ["baseline"]
confusion_matrix_config = {
    "title": "Confusion Matrix",  # "混同行列"
    "xlabel": "Predicted Label",  # "予測ラベル"
    "ylabel": "True Label",  # "実際ラベル"
    "fontsize": 14,
    "title_fontsize": 16,
    "label_fontsize": 12,
    "figsize": (8, 6),
    "cmap": "Blues",
}

# ---------------------------------------------------------------- Machine / 実行環境
device = None  # None: GPU when there is one / 自動選択; "cpu", "cuda", "cuda:1", "mps"
precision = "auto"  # "fp32", "bf16", "fp16"
cudnn_benchmark = False  # True: faster on a GPU, no longer bit-reproducible / 高速だがビット単位の再現性はなくなる

# ---------------------------------------------------------------- Optuna
optuna = {
    "study_name": "pochitrain_optimization",
    "direction": "maximize",  # "minimize": lowest loss / 損失最小化
    "n_trials": 20,
    "n_jobs": 1,
    "optuna_epochs": 10,
    "sampler": "TPESampler",  # "RandomSampler", "CmaEsSampler", "GridSampler"
    "pruner": "MedianPruner",  # "PercentilePruner", "SuccessiveHalvingPruner", "HyperbandPruner", "NopPruner", None
    "storage": None,  # "sqlite:///optuna_study.db": interrupt and continue / 中断・再開
    "search_space": {
        "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
        "batch_size": {"type": "categorical", "choices": [16, 32]},
        "optimizer": {"type": "categorical", "choices": ["SGD", "Adam", "AdamW"]},
    },
}

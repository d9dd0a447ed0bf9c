"""The examples of the config guide, as they stand there: title → the code that a user pastes into a config.

`python -m tests.guide_examples` trains every one and prints what came of it.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from pathlib import Path

from pochitrain.config.schema import Config
from pochitrain.data.source import load_data
from pochitrain.engine.loop import fit
from pochitrain.engine.run import build_run
from pochitrain.errors import PochiError
from pochitrain.history import Record
from pochitrain.tasks.prepare import checked_config
from tests.conftest import make_images

SHIPPED = Path(__file__).parents[1] / "configs" / "pochi_train_config.py"
CLASSES = {"ネジ": 2, "ナット": 2, "ワッシャー": 2, "ボルト": 2}  # four: as many as the guide's class_weights


TRAINS = {
    "スケジューラー設定 / 基本設定": r"""
scheduler = "StepLR"  # スケジューラー名
scheduler_params = {"step_size": 30, "gamma": 0.1}  # パラメータ
""",
    "スケジューラー設定 / StepLR": r"""
scheduler = "StepLR"
scheduler_params = {"step_size": 30, "gamma": 0.1}
""",
    "スケジューラー設定 / MultiStepLR": r"""
scheduler = "MultiStepLR"
scheduler_params = {"milestones": [30, 60, 90], "gamma": 0.1}
""",
    "スケジューラー設定 / CosineAnnealingLR": r"""
scheduler = "CosineAnnealingLR"
scheduler_params = {"T_max": 50}
""",
    "スケジューラー設定 / ExponentialLR": r"""
scheduler = "ExponentialLR"
scheduler_params = {"gamma": 0.95}
""",
    "スケジューラー設定 / LinearLR": r"""
scheduler = "LinearLR"
scheduler_params = {
    "start_factor": 1.0,
    "end_factor": 0.1,
    "total_iters": 100,
}
""",
    "スケジューラー設定 / スケジューラーなし": r"""
scheduler = None
scheduler_params = None
""",
    "層別学習率 / 基本設定": r"""
enable_layer_wise_lr = True
layer_wise_lr_config = {
    "layer_rates": {
        "conv1": 0.0001,
        "bn1": 0.0001,
        "layer1": 0.0002,
        "layer2": 0.0005,
        "layer3": 0.001,
        "layer4": 0.002,
        "fc": 0.01,
    },
    "graph_config": {
        "use_log_scale": False,  # True で対数スケール
    },
}
""",
    "層別学習率 / スケジューラーとの併用例 (1)": r"""
learning_rate = 0.001
enable_layer_wise_lr = True
layer_wise_lr_config = {
    "layer_rates": {
        "conv1": 0.0001,
        "layer1": 0.0005,
        "layer2": 0.001,
        "layer3": 0.002,
        "layer4": 0.005,
        "fc": 0.01,
    },
    "graph_config": {"use_log_scale": True},
}

scheduler = "ExponentialLR"
scheduler_params = {"gamma": 0.95}
""",
    "層別学習率 / スケジューラーとの併用例 (2)": r"""
learning_rate = 0.001
enable_layer_wise_lr = True
layer_wise_lr_config = {
    "layer_rates": {
        "conv1": 0.0001,
        "layer1": 0.0002,
        "layer2": 0.0005,
        "layer3": 0.001,
        "layer4": 0.002,
        "fc": 0.01,
    },
    "graph_config": {"use_log_scale": False},
}

scheduler = "LinearLR"
scheduler_params = {
    "start_factor": 1.0,
    "end_factor": 0.1,
    "total_iters": 100,
}
""",
    "Early Stopping設定 / 基本設定": r"""
early_stopping = {
    "enabled": False,       # Early Stoppingを有効化
    "patience": 30,         # 改善なしの許容エポック数
    "min_delta": 3.0,       # この値以上の変化がないと改善と見なさない
    "monitor": "val_accuracy",  # 監視メトリクス
}
""",
    "勾配トレース設定 / 基本設定": r"""
enable_gradient_tracking = True  # デフォルトOFF (計算コスト考慮)
gradient_tracking_config = {
    "record_frequency": 1,                     # 記録頻度 (1 = 毎エポック)
    "exclude_patterns": ["fc\\.", "\\.bias"],   # 除外する層名パターン (正規表現)
    "group_by_block": True,                     # ResNetブロック単位で集約
    "aggregation_method": "median",             # 集約方法
}
""",
    "損失関数設定 / 基本設定 (自動重み)": r"""
class_weights = None  # 自動的にバランスを調整
""",
    "損失関数設定 / クラス重みの手動設定": r"""
class_weights = [1.0, 2.0, 1.5, 0.8]  # 4クラスの例
""",
    "損失関数設定 / 使用例": r"""
# 少数クラス (クラス1) を重視する場合
class_weights = [1.0, 3.0, 1.0, 1.0]

# 多数クラス (クラス0) の影響を抑える場合
class_weights = [0.5, 1.0, 1.0, 1.0]
""",
    "データ変換 / 基本パラメータ": r"""
mean = [0.485, 0.456, 0.406]  # ImageNet標準値
std = [0.229, 0.224, 0.225]   # ImageNet標準値
""",
    "データ変換 / 訓練用変換の例 / 最小限構成 (必須設定)": r"""
train_transform = transforms.Compose([
    transforms.ToTensor(),  # 必須: PIL Image → PyTorchテンソルに変換
    transforms.Normalize(mean=mean, std=std),  # 推奨: 正規化
])
""",
    "データ変換 / 訓練用変換の例 / データ拡張あり": r"""
train_transform = transforms.Compose([
    transforms.RandomResizedCrop(224),
    transforms.RandomHorizontalFlip(p=0.5),
    transforms.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
    transforms.ToTensor(),
    transforms.Normalize(mean=mean, std=std),
])
""",
    "データ変換 / 検証用変換の例 / リサイズあり": r"""
val_transform = transforms.Compose([
    transforms.Resize(256),
    transforms.CenterCrop(224),
    transforms.ToTensor(),
    transforms.Normalize(mean=mean, std=std),
])
""",
    "データ変換 / 検証用変換の例 / リサイズなし (最小限構成)": r"""
val_transform = transforms.Compose([
    transforms.ToTensor(),  # 必須: PIL Image → PyTorchテンソルに変換
    transforms.Normalize(mean=mean, std=std),  # 推奨: 正規化
])
""",
    "カスタム正規化 / グレースケール寄りのRGB画像用": r"""
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
""",
    "カスタム正規化 / 医用画像用": r"""
mean = [0.485, 0.485, 0.485]  # グレースケール寄りのRGB
std = [0.229, 0.229, 0.229]
""",
    "混同行列設定 / 基本設定": r"""
confusion_matrix_config = {
    "title": "Confusion Matrix",    # タイトル
    "xlabel": "Predicted Label",    # x軸ラベル
    "ylabel": "True Label",         # y軸ラベル
    "fontsize": 14,                 # セル内数値のフォントサイズ
    "title_fontsize": 16,           # タイトルのフォントサイズ
    "label_fontsize": 12,           # 軸ラベルのフォントサイズ
    "figsize": (8, 6),              # 図のサイズ (幅, 高さ)
    "cmap": "Blues",                # カラーマップ
}
""",
    "混同行列設定 / 日本語表示の例": r"""
confusion_matrix_config = {
    "title": "混同行列",
    "xlabel": "予測ラベル",
    "ylabel": "実際ラベル",
    "fontsize": 14,
    "title_fontsize": 16,
    "label_fontsize": 12,
    "figsize": (8, 6),
    "cmap": "Blues",
}
""",
    "設定例 / 高速訓練用 (軽量設定)": r"""
model_name = "resnet18"
batch_size = 32
epochs = 20
learning_rate = 0.01
optimizer = "SGD"
scheduler = "StepLR"
scheduler_params = {"step_size": 10, "gamma": 0.1}

train_transform = transforms.Compose([
    transforms.ToTensor(),
    transforms.Normalize(mean=mean, std=std),
])
""",
    "設定例 / 高精度狙い (重訓練設定)": r"""
model_name = "resnet50"
batch_size = 16
epochs = 100
learning_rate = 0.001
optimizer = "Adam"
scheduler = "MultiStepLR"
scheduler_params = {"milestones": [30, 60, 90], "gamma": 0.1}

train_transform = transforms.Compose([
    transforms.RandomResizedCrop(224),
    transforms.RandomHorizontalFlip(p=0.5),
    transforms.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1),
    transforms.RandomRotation(15),
    transforms.ToTensor(),
    transforms.Normalize(mean=mean, std=std),
])
""",
    "設定例 / 不均衡データセット用": r"""
# クラス重みで少数クラスを重視
class_weights = [0.5, 2.0, 1.5, 1.0]  # クラス1を最重視

# CosineAnnealingLRで安定した学習
scheduler = "CosineAnnealingLR"
scheduler_params = {"T_max": 50}
""",
    "設定例 / 層別学習率 + ExponentialLR": r"""
learning_rate = 0.001
enable_layer_wise_lr = True
layer_wise_lr_config = {
    "layer_rates": {
        "conv1": 0.0001,
        "layer1": 0.0003,
        "layer2": 0.0005,
        "layer3": 0.001,
        "layer4": 0.003,
        "fc": 0.01,
    },
    "graph_config": {"use_log_scale": True},
}

scheduler = "ExponentialLR"
scheduler_params = {"gamma": 0.95}
""",
    "設定例 / 層別学習率 + LinearLR": r"""
learning_rate = 0.001
enable_layer_wise_lr = True
layer_wise_lr_config = {
    "layer_rates": {
        "conv1": 0.0002,
        "layer1": 0.0004,
        "layer2": 0.0006,
        "layer3": 0.0008,
        "layer4": 0.001,
        "fc": 0.002,
    },
    "graph_config": {"use_log_scale": False},
}

scheduler = "LinearLR"
scheduler_params = {
    "start_factor": 1.0,
    "end_factor": 0.1,
    "total_iters": 50,
}
""",
    "Optuna / 基本設定": r"""
optuna = {
    "study_name": "pochitrain_optimization",
    "direction": "maximize",  # "maximize"(精度最大化) or "minimize"(損失最小化)
    "n_trials": 20,
    "n_jobs": 1,
    "optuna_epochs": 10,  # 本格訓練より短く設定して探索を高速化
}
""",
    "Optuna / サンプラー設定": r"""
optuna["sampler"] = "TPESampler"
""",
    "Optuna / プルーナー設定": r"""
optuna["pruner"] = "MedianPruner"
""",
    "Optuna / Storage設定 (オプション)": r"""
optuna["storage"] = None  # メモリ内のみ
# optuna["storage"] = "sqlite:///optuna_study.db"  # SQLiteに保存
""",
    "Optuna / 探索空間": r"""
optuna["search_space"] = {
    # 学習率 (対数スケール)
    "learning_rate": {
        "type": "float",
        "low": 1e-5,
        "high": 1e-1,
        "log": True,
    },
    # バッチサイズ (カテゴリカル)
    "batch_size": {
        "type": "categorical",
        "choices": [16, 32],
    },
    # オプティマイザー (カテゴリカル)
    "optimizer": {
        "type": "categorical",
        "choices": ["SGD", "Adam", "AdamW"],
    },
}
""",
    "Optuna / 探索空間 / スケジューラーパラメータの探索例": r"""
optuna["search_space"] = {
    "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "scheduler_gamma": {"type": "float", "low": 0.85, "high": 0.99},
    "scheduler_step_size": {"type": "int", "low": 5, "high": 30},
}
""",
}

# title → code, and the first line of the message in Japanese: the guide's own words where it has any
REFUSED = {
    "よくあるエラー / クラス重み": (
        "class_weights = [1.0, 2.0, 1.5]\n",
        "クラス重みの長さ(3)がクラス数(4)と一致しません",
    ),
    "よくあるエラー / クラス重み (num_classes あり)": (
        "num_classes = 4\nclass_weights = [1.0, 2.0, 1.5]\n",
        "クラス重みの長さ(3)がクラス数(4)と一致しません",
    ),
    "よくあるエラー / スケジューラー": (
        'scheduler = "CustomLR"\n',
        "サポートされていないスケジューラー: CustomLR",
    ),
    "よくあるエラー / 層別学習率": (
        "enable_layer_wise_lr = True\nlayer_wise_lr_config = {}\n",
        "層別学習率が有効ですが layer_rates が定義されていません",
    ),
    "よくあるエラー / Transform (未設定)": (
        "train_transform = None\n",
        "train_transform は必須です",
    ),
    "よくあるエラー / Transform (ToTensor なし)": (
        "val_transform = transforms.Compose([transforms.Resize((32, 32))])\n",
        "transforms.ToTensor() は必須です. これがないと画像が float テンソル (3, H, W) に変換されません",
    ),
    "よくあるエラー / Transform (インポートなし)": (
        "del transforms\ntrain_transform = transforms.Compose([])\n",
        "設定ファイルの実行中に NameError が発生しました: name 'transforms' is not defined",
    ),
}


def load_example(code: str, folder: Path) -> Config:
    """Return the shipped config with an example put into it, on four classes of two images each, for one epoch."""
    for split, seed in (("train", 0), ("val", 1)):
        make_images(folder / split, CLASSES, size=(32, 32), seed=seed)
    path = folder / "guide.py"
    path.write_text(_pasted(SHIPPED.read_text(encoding="utf-8"), code), encoding="utf-8")
    overrides = {
        "train_data_root": str(folder / "train"),
        "val_data_root": str(folder / "val"),
        "work_dir": str(folder / "work_dirs"),
        "epochs": 1,
        "log_level": "warning",
    }
    with contextlib.chdir(folder):  # where the shipped config writes its digits
        return checked_config(path, overrides)


def train_example(config: Config) -> Record:
    """Train one epoch and return its record. Writes nothing: 200 MB of weights for each example would be slow."""
    return fit(build_run(config, load_data(config)), [], epochs=1)[0]


def _pasted(config: str, code: str) -> str:
    """Append an example; `mean` and `std` take the place of the config's own, which the transforms below them read."""
    if code.lstrip().startswith("mean"):
        return re.sub(r"^mean = .*\nstd = .*\n", lambda _found: code, config, flags=re.MULTILINE)
    return config + code


def main() -> None:
    """Print what comes of each example."""
    codes = TRAINS | {title: code for title, (code, _message) in REFUSED.items()}
    with tempfile.TemporaryDirectory() as folder:
        for title, code in codes.items():
            try:
                record = train_example(load_example(code, Path(folder)))
                came = f"trained: train_loss {record['train_loss']:.4f}, val_accuracy {record['val_accuracy']:.1f} %"
            except PochiError as error:
                came = "refused: " + " ".join(error.problems[0].what.split())
            print(f"| {title} | {came} |")


if __name__ == "__main__":
    main()

"""Every setting: its type, default, documentation in both languages, and whether it is part of the identity.

This table is the only place where a setting is declared. The documentation, the JSON schema, the messages about wrong
values, the search space and the identity are read out of it. Adding a setting is one entry here and its use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Unit
from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from pochitrain.config.fields import (
    Device,
    Float,
    FolderName,
    Function,
    Int,
    Optimizer,
    Part,
    PathText,
    Pattern,
    Scheduler,
    Settings,
    Transform,
    Weights,
    plain,
    setting,
)
from pochitrain.config.search import Optuna


class GraphConfig(Settings):
    use_log_scale: bool = setting(
        False,
        en="Logarithmic axis in the graph of the rates.",
        ja="層別学習率グラフを対数スケールで表示する.",
        identity=False,
    )


class LayerWiseLr(Settings):
    layer_rates: dict[Pattern, Annotated[float, Field(ge=0)]] | None = setting(
        None,
        en="Pattern of parameter names → learning rate; the first match in the written order wins; 0 freezes.",
        ja="層名のパターン (正規表現) → 学習率. 記述順に最初に一致したものを使う. 0 は凍結.",
    )
    graph_config: GraphConfig = setting(
        GraphConfig(), en="The graph of the rates.", ja="層別学習率グラフの設定.", identity=False
    )


class EarlyStopping(Settings):
    enabled: bool = setting(
        False, en="Stop when the monitored metric no longer improves.", ja="Early Stopping の有効/無効.", identity=False
    )
    patience: Int = setting(
        30, en="Epochs without improvement that are allowed.", ja="改善なしの許容エポック数.", identity=False, ge=1
    )
    min_delta: Float = setting(
        3.0,
        en="Smallest change that counts as an improvement (default 3.0 percent points; 0.0 for val_loss).",
        ja="改善と見なす最小変化量 (0.0 なら少しでも良くなれば改善扱い. monitor が val_loss のときの既定値は 0.0).",
        identity=False,
        ge=0,
    )
    monitor: Literal["val_accuracy", "val_loss"] = setting(
        "val_accuracy",
        en="The metric that decides about stopping and about the best epoch.",
        ja="監視メトリクス. 終了の判断と最良エポックの選択に使う.",
        identity=False,
    )

    @model_validator(mode="after")
    def _default_fits_the_unit(self) -> EarlyStopping:
        # 3.0 is meant for percent points; on a loss it would never see an improvement. It stays a default: not "set".
        if self.monitor == "val_loss" and "min_delta" not in self.model_fields_set:
            self.__dict__["min_delta"] = 0.0
        return self


class GradientTracking(Settings):
    record_frequency: Int = setting(
        1, en="Record every so many epochs.", ja="記録頻度 (エポック単位).", identity=False, ge=1
    )
    exclude_patterns: Annotated[list[Pattern], BeforeValidator(plain)] = setting(
        ["fc\\.", "\\.bias"],
        en="Regular expressions; a parameter whose name any of them matches is left out.",
        ja="除外する層名の正規表現パターン.",
        identity=False,
    )
    group_by_block: bool = setting(
        True,
        en="One line per block (conv1, layer1 …).",
        ja="ResNet ブロック単位で集約 (layer1.*, layer2.* など).",
        identity=False,
    )
    aggregation_method: Literal["median", "mean", "max", "rms"] = setting(
        "median", en="How the tensors of a block become one number.", ja="集約方法.", identity=False
    )


# matplotlib draws whatever it is asked for, until the memory is full.
Points = Annotated[float, Field(gt=0, le=144), Unit("points"), BeforeValidator(plain)]
Inches = Annotated[float, Field(gt=0, le=60), Unit("inches")]


class ConfusionMatrix(Settings):
    title: str = setting("Confusion Matrix", en="Title.", ja="グラフタイトル.", identity=False)
    xlabel: str = setting("Predicted Label", en="Label of the x axis.", ja="x 軸ラベル.", identity=False)
    ylabel: str = setting("True Label", en="Label of the y axis.", ja="y 軸ラベル.", identity=False)
    fontsize: Points = setting(
        14, en="Font size of the numbers in the cells.", ja="セル内数値のフォントサイズ.", identity=False
    )
    title_fontsize: Points = setting(16, en="Font size of the title.", ja="タイトルのフォントサイズ.", identity=False)
    label_fontsize: Points = setting(
        12, en="Font size of the axis labels.", ja="軸ラベルのフォントサイズ.", identity=False
    )
    figsize: Annotated[list[Inches], BeforeValidator(plain), Field(min_length=2, max_length=2)] = setting(
        [8, 6], en="Width and height of the figure in inches.", ja="図のサイズ (幅, 高さ. インチ).", identity=False
    )
    cmap: str = setting("Blues", en="Name of a matplotlib colour map.", ja="matplotlib カラーマップ名.", identity=False)


class Config(Settings):
    """Every setting of one experiment: validated, frozen and flat like the file. `load_config` makes one."""

    # data
    train_data_root: PathText | None = setting(
        None,
        en="Folder of the training images, one folder per class; or a CSV file with the columns path and label.",
        ja="訓練データのパス (クラスごとのフォルダー, または path と label の列を持つ CSV).",
        identity=False,
    )
    val_data_root: PathText | None = setting(
        None,
        en='Folder of the validation images; "auto": part of the training folder; None: no validation.',
        ja='検証データのパス ("auto" で訓練データから分割, None で検証なし).',
        identity=False,
    )
    val_fraction: Float = setting(
        0.2,
        en='About this share of each class validates when val_data_root = "auto".',
        ja='val_data_root = "auto" のとき検証に使うおよその割合.',
        identity=False,
        gt=0,
        lt=1,
    )
    group_by: Pattern | None = setting(
        None,
        en="Regular expression on the path: images in which it finds the same text stay on one side of the split.",
        ja="パスへの正規表現. 同じ文字列が見つかった画像は訓練と検証に分かれない.",
        identity=False,
        min_length=1,
    )
    train_transform: Transform = setting(
        en="Transform of a training image: PIL image → float tensor (3, H, W).",
        ja="訓練用変換. PIL Image → float テンソル (3, H, W).",
    )
    val_transform: Transform = setting(
        en="Transform of a validation image: PIL image → float tensor (3, H, W).",
        ja="検証用変換. PIL Image → float テンソル (3, H, W).",
    )
    batch_size: Int = setting(32, en="Images per step.", ja="バッチサイズ.", ge=1)
    num_workers: Int | None = setting(
        None,
        en="Processes that load images; 0: threads of the training process do; None: what suits machine and cache.",
        ja="データローダーのワーカー数. 0 は訓練プロセスのスレッド, None はマシンとキャッシュに合わせて自動.",
        identity=False,
        ge=0,
        le=1024,
    )
    cache: Literal["auto", "memory", "disk", "off"] = setting(
        "auto",
        en="Where images are kept after decoding and the steps that draw nothing; auto: memory, else disk if they fit.",
        ja="デコードと乱数を使わない変換を終えた画像の保存先. auto はメモリー, 入らなければディスク.",
        identity=False,
    )
    cache_gb: Float | None = setting(
        None,
        en="Upper limit of that cache in GB; None: half of the free memory, a fifth of the free disk.",
        ja="キャッシュの上限 (GB). None は空きメモリーの半分, 空きディスクの 5 分の 1.",
        identity=False,
        gt=0,
    )
    worker_timeout_seconds: Int = setting(
        300,
        en="A loading process silent for so long counts as hung.",
        ja="ワーカーがこの秒数応答しなければ停止と見なす.",
        identity=False,
        ge=1,
    )
    pin_memory: bool | None = setting(
        None,
        en="Page-locked batches for faster copies to the GPU; None: on CUDA.",
        ja="ページロックメモリーの使用. None は CUDA で自動的に有効.",
        identity=False,
    )
    on_bad_image: Literal["error", "skip"] = setting(
        "error",
        en="What an unreadable image does: stop before the first epoch, or be left out and counted.",
        ja="読めない画像の扱い. error: 開始前に停止, skip: 除外して数える.",
    )

    # model
    model_name: str = setting(
        "resnet18", en="A classification model of torchvision.", ja="使用するモデル名 (torchvision の分類モデル)."
    )
    model: Part | None = setting(
        None,
        en="Your own model: a function or class; replaces model_name.",
        ja="自作モデル (関数またはクラス). model_name の代わりに使う.",
    )
    num_classes: Int | None = setting(
        None,
        en="Number of classes; None: counted from the class folders.",
        ja="分類クラス数. None はクラスフォルダーから数える.",
        identity=False,
        ge=1,
    )
    pretrained: bool = setting(
        True, en="Start from torchvision's ImageNet weights.", ja="事前学習済みモデルを使用するか."
    )

    # training
    train: bool = setting(
        True,
        en="False: `pochi train` trains nothing and judges what is there; needs test = True.",
        ja="False なら `pochi train` は訓練せず, 既存のモデルを評価する (test = True が必要).",
        identity=False,
    )
    test: bool = setting(
        False,
        en="`pochi train` judges the best epoch at its end, as `pochi infer` does.",
        ja="`pochi train` の最後に, 最良エポックを `pochi infer` と同じように評価する.",
        identity=False,
    )
    epochs: Int = setting(
        50,
        en="Epochs in total; a finished run continues when it is raised.",
        ja="エポック数. 完了後に増やすと続きから訓練する.",
        identity=False,
        ge=1,
    )
    learning_rate: Float = setting(0.001, en="Learning rate.", ja="学習率.", gt=0, le=1)
    optimizer: Optimizer = setting("Adam", en="Optimizer.", ja="最適化器.")
    optimizer_params: dict[str, Any] | None = setting(
        None, en="Further arguments of the optimizer.", ja="最適化器の追加パラメータ."
    )
    scheduler: Scheduler | None = setting(
        None,
        en="Learning rate schedule, stepped once per epoch; None: constant.",
        ja="スケジューラー名. エポックごとに更新. None は一定.",
    )
    scheduler_params: dict[str, Any] | None = setting(
        None, en="Arguments of the scheduler.", ja="スケジューラーのパラメータ."
    )
    enable_layer_wise_lr: bool = setting(
        False, en="Different learning rates for different layers.", ja="層別学習率機能の有効/無効."
    )
    layer_wise_lr_config: LayerWiseLr = setting(LayerWiseLr(), en="Layer-wise learning rates.", ja="層別学習率の設定.")
    class_weights: Weights = setting(
        None,
        en='Weight of each class in the loss; None: balanced, N / (K · n_c); "uniform": none.',
        ja='損失のクラス重み. None: 自動調整 N / (K · n_c), "uniform": 重みなし.',
    )
    loss: Function | None = setting(
        None,
        en="Your own loss: loss(logits, labels), or a class; None: cross entropy.",
        ja="自作の損失関数. None は交差エントロピー.",
    )
    dataset: Part | None = setting(
        None,
        en="Your own data: a function that returns a torch Dataset of (image, label).",
        ja="自作データセット. (画像, ラベル) の torch Dataset を返す関数.",
    )
    adapter: Part | None = setting(
        None,
        en="A function that returns settings which join data and model.",
        ja="アダプター. データとモデルをつなぐ設定を返す関数.",
    )
    train_epoch: Function | None = setting(
        None,
        en="Your own epoch: train_epoch(run, epoch) returns a record.",
        ja="自作の訓練エポック. train_epoch(run, epoch) がレコードを返す.",
    )
    early_stopping: EarlyStopping = setting(
        EarlyStopping(), en="Early stopping.", ja="Early Stopping 設定.", identity=False
    )
    seed: Int = setting(42, en="Seed of everything random.", ja="乱数シード.", ge=0, lt=2**63)

    # machine
    device: Device | None = setting(
        None,
        en='"cpu", "cuda", "cuda:1", "mps"; None: the best one there is.',
        ja="デバイス (None で自動選択).",
        identity=False,
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto",
        en="Number format of the model's arithmetic; auto: bf16 where the processor or GPU has it and it is faster.",
        ja="演算の精度. auto は bf16 に対応し, 速くなる環境で bf16 を使う.",
    )
    channels_last: bool | Literal["auto"] = setting(
        "auto", en="Memory layout that is faster for convolutions.", ja="畳み込みに有利なメモリー配置.", identity=False
    )
    compile: bool = setting(
        False,
        en="torch.compile the model: slow to start, may be faster later.",
        ja="torch.compile の使用.",
        identity=False,
    )
    cudnn_benchmark: bool = setting(
        False,
        en="Let cuDNN try its algorithms (faster for inputs of one size; no longer bit-reproducible).",
        ja="cuDNN 自動チューニング (固定サイズ入力で高速化. ビット単位の再現性は失われる).",
        identity=False,
    )

    # output
    work_dir: PathText = setting("work_dirs", en="Where experiments are kept.", ja="作業ディレクトリ.", identity=False)
    task: FolderName | None = setting(
        None,
        en="Name of the task, the first folder; None: the config file's name.",
        ja="タスク名 (最初のフォルダー). None は設定ファイル名.",
        identity=False,
    )
    tags: Annotated[list[str], BeforeValidator(plain)] = setting(
        [], en="Labels to find an experiment again.", ja="実験を探すためのタグ.", identity=False
    )
    notes: str = setting("", en="A remark for people.", ja="メモ.", identity=False)
    enable_metrics_export: bool = setting(
        True, en="Write the metrics as CSV and graphs.", ja="メトリクスの CSV 出力とグラフ生成を有効化.", identity=False
    )
    enable_tensorboard: bool = setting(
        False, en="Write TensorBoard events.", ja="TensorBoard への出力.", identity=False
    )
    enable_gradient_tracking: bool = setting(
        False, en="Record the gradient norms of the layers.", ja="勾配トレースの有効/無効.", identity=False
    )
    gradient_tracking_config: GradientTracking = setting(
        GradientTracking(), en="Gradient tracing.", ja="勾配トレース設定.", identity=False
    )
    confusion_matrix_config: ConfusionMatrix = setting(
        ConfusionMatrix(), en="Look of the confusion matrix.", ja="混同行列の表示.", identity=False
    )
    checkpoint_every_minutes: Float | None = setting(
        10.0,
        en="Save within an epoch after so many minutes; None: only at the end of an epoch.",
        ja="エポック途中の保存間隔 (分). None はエポック終了時のみ.",
        identity=False,
        gt=0,
    )
    observers: Annotated[list[Function], BeforeValidator(plain)] = setting(
        [],
        en="Functions that are called with the record of each epoch.",
        ja="エポックごとのレコードを受け取る関数.",
        identity=False,
    )
    plots: Annotated[list[Function], BeforeValidator(plain)] = setting(
        [],
        en="Functions that draw: called with the settings they name, `history` and `plots_dir`.",
        ja="描画関数. history や plots_dir などを引数名で受け取る.",
        identity=False,
    )
    log_level: Literal["debug", "info", "warning"] = setting(
        "info", en="How much is said.", ja="ログの詳しさ.", identity=False
    )
    print_config: bool = setting(
        False, en="Show the settings as a tree before training.", ja="設定ツリーを表示する.", identity=False
    )
    enforce_tags: bool = setting(False, en="Do not start without tags.", ja="タグの入力を必須にする.", identity=False)
    ignore_warnings: bool = setting(
        False, en="Hide Python's warnings.", ja="Python の警告を表示しない.", identity=False
    )
    optuna: Optuna = setting(
        Optuna(), en="Hyper-parameter search.", ja="Optuna ハイパーパラメータ最適化設定.", identity=False
    )

    _origin: Origin = PrivateAttr(default_factory=lambda: Origin())

    @property
    def origin(self) -> Origin:
        """Where the settings came from."""
        return self._origin


@dataclass(frozen=True)
class Origin:
    """What a Config was made of: the file's path and exact text, every name in it, and what was put over it."""

    path: Path | None = None
    text: str = ""
    namespace: Mapping[str, Any] = field(default_factory=dict)
    helpers: Mapping[str, Any] = field(default_factory=dict)  # the names that are no settings
    overrides: Mapping[str, Any] = field(default_factory=dict)

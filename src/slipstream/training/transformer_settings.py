"""The settings of the transformer. No torch here: serving reads them too."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from slipstream.config import OneOf, Range, Settings, Space, fingerprint_of, with_overrides

ADDED = (
    *("body", "residual", "calibration", "ema", "neighbour_share", "neighbours", "people"),
    *("code_epochs", "graph_content"),
)
"""Settings younger than the first saved models. At their defaults they change no number, so they stay out of
the fingerprint: checkpoints and models from before keep theirs."""


WARM_EPOCHS, WARM_RATE = 0.125, 0.5
"""Of a whole training."""


class TransformerSettings(Settings):
    """Everything that changes the numbers."""

    space: ClassVar[Space] = {
        "dim": OneOf((64, 128)),
        "layers": OneOf((1, 2, 4)),
        "output": OneOf(("dot", "cosine")),
        "targets": OneOf((1, 2, 4)),
        "dropout": Range(0.0, 0.6),
        "attention_dropout": Range(0.0, 0.6),
        "lr": Range(3e-4, 4e-3, log=True),
        "table_lr": Range(3e-4, 4e-3, log=True),
        "weight_decay": Range(1e-4, 0.1, log=True),
    }

    # the network
    dim: int = Field(default=64, ge=8, le=1024)
    layers: int = Field(default=2, ge=1, le=16)
    heads: int = Field(default=2, ge=1, le=32)
    attention_window: int = Field(
        default=64, ge=2, le=1024, description="W: events an event sees, itself included"
    )
    # SiLU is GELU's shape at a third of its cost here: torch's tanh form takes 4 ns an element in both passes
    ffn: Literal["silu", "gelu", "swiglu"] = "silu"
    ffn_dim: int = Field(default=0, ge=0, le=8192, description="0: four times dim")
    body: Literal["transformer", "hstu"] = Field(
        default="transformer", description="hstu: pointwise attention with gates, no feed-forward"
    )
    residual: Literal["plain", "gated"] = Field(
        default="plain", description="gated: each branch times sigmoid(gate(x)), for deep stacks"
    )
    output: Literal["dot", "cosine"] = "dot"
    temperature: float = Field(default=0.05, gt=0, le=10, description="of the cosine output")
    times: bool = Field(
        default=True, description="use the gap from the event before, where the data has a clock"
    )
    query_time: bool = Field(
        default=False, description="tell the head the time of the request, where the data has a clock"
    )
    content: bool = Field(default=False, description="add projected item features to the item vectors")
    graph_content: bool = Field(
        default=False, description="add vectors of what the knowledge graph tells of an item"
    )
    people: bool = Field(
        default=False, description="add projected user features to what items are compared with"
    )
    neighbour_share: float = Field(
        default=0.0, ge=0, le=100, description="how much of its neighbours' vectors an item's vector takes"
    )
    neighbours: int = Field(default=20, ge=1, le=1000, description="of an item, in histories")
    # the task
    max_length: int = Field(default=200, ge=2, le=4096, description="events of one training window")
    recent: int = Field(default=0, ge=0, description="train on so many latest events of a history; 0: all")
    targets: int = Field(
        default=1, ge=1, le=16, description="next items that are the answer, each half of the last"
    )
    target_decay: float = Field(default=0.5, gt=0, le=1)
    deletion: float = Field(
        default=0.0, ge=0, lt=1, description="share of events left out at random each epoch"
    )
    loss: Literal["softmax", "softmax-reference", "sampled", "gbce"] = "softmax"
    negatives: int = Field(default=512, ge=1, le=100_000, description="of the sampled losses")
    calibration: float = Field(default=0.75, ge=0, le=1, description="t of gBCE; 0: plain BCE")
    dropout: float = Field(default=0.2, ge=0, lt=1)
    attention_dropout: float = Field(default=0.2, ge=0, lt=1)
    # the course
    epochs: int = Field(default=30, ge=0, le=10_000)
    batch_tokens: int = Field(default=2048, ge=64, le=1 << 20)
    shards: int = Field(
        default=2, ge=1, le=64, description="parts of a batch whose gradients can be formed at once"
    )
    code_epochs: int = Field(
        default=0, ge=0, le=10_000, description="more, with the item table as product codes; 0: no codes"
    )
    lr: float = Field(default=1e-3, gt=0, le=1)
    table_lr: float = Field(default=1e-3, gt=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    clip: float = Field(default=1.0, gt=0)
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="decay of averaged weights, which are then used; 0: off"
    )
    warmup: float = Field(default=0.0, ge=0, description="epochs")
    patience: int = Field(
        default=8, ge=0, description="validations without a better value; 0: never stop early"
    )
    validate_every: int = Field(default=1, ge=1)
    validation_users: int = Field(default=2048, ge=1, description="at most so many, the same ones every time")
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="auto: bfloat16 if native"
    )

    def continues(self, earlier: TransformerSettings) -> bool:
        """Whether a training may start at the weights of `earlier`.

        With content, neighbours or codes the table that is kept is not the one that was learned; columns of
        people's features may mean something else today.
        """
        plain = not (
            self.content or self.graph_content or self.neighbour_share or self.people or self.code_epochs
        )
        return plain and self.fingerprint() == earlier.fingerprint()

    def continued(self) -> Self:
        """For a training that goes on from earlier weights."""
        brief = {
            "epochs": max(1, round(self.epochs * WARM_EPOCHS)),
            "lr": self.lr * WARM_RATE,
            "table_lr": self.table_lr * WARM_RATE,
            "validate_every": 1,
        }
        return with_overrides(self, brief)

    def fingerprint(self) -> str:
        """12 hex digits that change when a setting changes the numbers."""
        idle = {name for name in ADDED if getattr(self, name) == type(self).model_fields[name].default}
        return fingerprint_of(self.model_dump(mode="json", exclude=idle))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim must be a multiple of heads, got {self.dim} and {self.heads}")
        if self.batch_tokens // self.shards < 64:
            raise ValueError("batch_tokens must be at least 64 per shard")
        return self

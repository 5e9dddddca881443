"""A transformers model on a device, run one step at a time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from policies.checks import InputError
from real.model import streams
from real.model.architecture import LEARNED_POSITIONS, configuration
from real.model.attention import NAME, Attention, BloomAttention, BloomStep, Step, alibi_slopes
from real.model.merged import merge_layers
from real.model.packed_linear import pack_linears
from real.model.streams import Streams
from sim.cost.model import Model
from sim.engine.execution import EAGER, Execution

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTIONS = ("sdpa", "eager")


class Network:
    """A causal language model whose attention is in the hands of a `Step`.

    Attributes:
        dimensions: Its dimensions.
        module: The model.
        device: Where it is.
        dtype: Type of weights, activations, keys and values.
        weight_bytes: Bytes of its weights.
        streams: What its lanes run on.
        attention: The product of queries, keys and values.
        tokenizer: What turns text into tokens; None for random weights.
        end_tokens: Tokens that end an answer; none for random weights.
        execution: How its decode steps are run.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        dimensions: Model,
        attention: str = "sdpa",
        tokenizer: Any = None,
        end_tokens: frozenset[int] = frozenset(),
        execution: Execution = EAGER,
    ) -> None:
        """Take a model over: its own attention gives way to the steps'.

        Args:
            module: Any of `real.model.architecture.ARCHITECTURES`, on its device.
            dimensions: Its dimensions.
            attention: `sdpa` or `eager`.
            tokenizer: What turns text into tokens.
            end_tokens: Tokens that end an answer.
            execution: How its decode steps are run.

        Raises:
            InputError: The kind of attention is unknown.
        """
        if attention not in ATTENTIONS:
            raise InputError(f"attention={attention}: choose one of {', '.join(ATTENTIONS)}")
        self.dimensions = dimensions
        self.execution = execution
        self.module = module.eval()
        self.device = module.device
        self.dtype = module.dtype
        self.streams = Streams(module.device)
        self.tokenizer = tokenizer
        self.end_tokens = end_tokens
        # Before they are packed: a packed weight is no parameter any more.
        self.weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in module.parameters())
        body: Any = module.base_model
        self._body = body
        if dimensions.gated:
            merge_layers(body)
        if self.device.type == "cpu":
            pack_linears(module, apart_from=module.get_input_embeddings())
        head = module.get_output_embeddings()
        assert head is not None
        self._head: Callable[[Tensor], Tensor] = head
        self._bloom = dimensions.architecture == "bloom"
        slopes = alibi_slopes(dimensions.heads).to(self.device) if self._bloom else None
        self.attention = Attention(attention, slopes)
        if self._bloom:
            for block in body.h:
                block.self_attention = BloomAttention(block.self_attention)
        module.config._attn_implementation = NAME
        learned = dimensions.architecture in LEARNED_POSITIONS
        self.last_position = dimensions.max_positions - 1 if learned else None

    @torch.inference_mode()
    def forward(self, ids: Tensor, positions: Tensor, step: Step, last: Tensor) -> Tensor:
        """Run the model.

        Args:
            ids: Tokens, int64 [b, q].
            positions: Their positions in their sequences, int64 [b, q].
            step: What attends.
            last: Places among the b x q tokens whose successors are wanted, int64 [n].

        Returns:
            Logits [n, vocabulary].
        """
        if self._bloom:
            hidden = self._body(ids, past_key_values=BloomStep(step), use_cache=False).last_hidden_state
        else:
            hidden = self._body(ids, position_ids=positions, use_cache=False, step=step).last_hidden_state
        return self._head(hidden.flatten(0, 1)[last])


def random_network(
    model: Model,
    device: str = "cpu",
    dtype: str = "float32",
    attention: str = "sdpa",
    seed: int = 0,
    execution: Execution = EAGER,
) -> Network:
    """Build a model of these dimensions with random weights.

    Raises:
        InputError: The architecture, device, type or kind of attention is unknown or not to be had.
    """
    place = device_of(device)
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype}: choose one of {', '.join(DTYPES)}")
    config = configuration(model)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), place:
        torch.manual_seed(seed)
        module = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
    return Network(module, model, attention, execution=execution)


def device_of(name: str) -> torch.device:
    """Return a device by name: `cpu`, `cuda`, `cuda:N`, or `auto` for a GPU where there is one.

    Whoever uses a GPU asks here first, so the switches of torch that hold for all of the process are set here.

    Raises:
        InputError: There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise InputError(f"device={name}: choose cpu, cuda or auto") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device={name}: choose cpu, cuda or auto")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device={name}: torch finds no CUDA GPU here; use device=cpu, or install torch with CUDA")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device={name}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    if device.type == "cuda":
        streams.attend_without_plans()
    return device

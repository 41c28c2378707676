"""Run by test_engine.py in a process of its own: vLLM on the CPU answers with bases and their adapters.

Reads a JSON list of tasks (test_engine.py) on standard input; prints for each a line of JSON with `name` and
either `logprobs` (of the tokens of `text`, by the model and then with its adapter, if it has one) and
`prompts`, or `error`.
"""

import gc
import json
import os
import sys
from typing import Any

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, so that vLLM is imported once for all families
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def answers(task: dict[str, Any]) -> dict[str, Any]:
    """The log-probabilities of a text without and with an adapter, and the prompts that the engine makes."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    engine = LLM(
        model=task["model"],
        dtype=task["type"],
        enforce_eager=True,
        max_model_len=4096,
        max_num_seqs=2,
        enable_lora=task["adapter"] is not None,
        max_lora_rank=task["rank"],
        worker_extension_cls="finetune_serving.cpu_kernels.CorrectedKernels",
        limit_mm_per_prompt={"image": 0, "video": 0} if task["multimodal"] else None,
    )
    adapters = [None, *([LoRARequest("tuned", 1, task["adapter"])] if task["adapter"] else [])]
    sampling = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    asked = [
        engine.generate({"prompt_token_ids": task["text"]}, sampling, lora_request=one, use_tqdm=False)[0]
        for one in adapters
    ]
    return {
        "logprobs": [_of_prompt(output) for output in asked],
        "prompts": {
            kind: _prompt(engine, adapters[-1], **row) for kind, row in task["conversations"].items()
        },
    }


def _of_prompt(output: Any) -> list[float]:
    """The log-probability of each token of the prompt after those before it."""
    pairs = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
    return [known[token].logprob for token, known in pairs]


def _prompt(engine: Any, adapter: Any, messages: list[Any], tools: list[Any], options: dict[str, Any]) -> Any:
    """The tokens that the engine makes of a conversation before it answers, or why it refuses."""
    from vllm import SamplingParams

    try:
        answer = engine.chat(
            messages,
            SamplingParams(temperature=0, max_tokens=1),
            lora_request=adapter,
            use_tqdm=False,
            tools=tools or None,
            chat_template_kwargs=options,
        )
    except Exception as error:  # a template may raise anything
        return f"{type(error).__name__}: {error}"
    return list(answer[0].prompt_token_ids)


def main() -> None:
    """Answer all tasks; an engine that fails leaves its error and the others go on."""
    from vllm.distributed import cleanup_dist_env_and_memory

    for task in json.load(sys.stdin):
        try:
            result = answers(task)
        except Exception as error:  # whatever vLLM raises is the result
            result = {"error": f"{type(error).__name__}: {error}"}
        print("\n" + json.dumps({"name": task["name"], **result}), flush=True)
        gc.collect()
        cleanup_dist_env_and_memory()


if __name__ == "__main__":
    main()

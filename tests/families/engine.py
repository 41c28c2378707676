"""Run by test_engine.py in a process of its own: vLLM on the CPU answers with bases and their adapters.

Reads a JSON list of tasks (test_engine.py) on standard input; prints for each a line of JSON with `family` and
either `prompt`, `texts` and `logprobs` (of the base, then of the adapter) or `error`.
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
_TOKENS = 8


def answers(task: dict[str, Any]) -> dict[str, Any]:
    """What one engine says to the messages: greedy, with the sum of the answer's log-probabilities."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    engine = LLM(
        model=task["base"],
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=2,
        enable_lora=True,
        max_lora_rank=task["rank"],
        worker_extension_cls="finetune_serving.cpu_lora.SlotwiseKernels",
        limit_mm_per_prompt={"image": 0, "video": 0} if task["multimodal"] else None,
    )
    sampling = SamplingParams(temperature=0, max_tokens=_TOKENS, logprobs=1)
    outputs = [
        engine.chat(
            task["messages"],
            sampling,
            lora_request=adapter,
            use_tqdm=False,
            chat_template_kwargs=task["options"],
        )[0]
        for adapter in (None, LoRARequest("tuned", 1, task["adapter"]))
    ]
    return {
        "prompt": list(outputs[0].prompt_token_ids),
        "texts": [output.outputs[0].text for output in outputs],
        "logprobs": [output.outputs[0].cumulative_logprob for output in outputs],
    }


def main() -> None:
    """Answer all tasks; an engine that fails leaves its error and the others go on."""
    from vllm.distributed import cleanup_dist_env_and_memory

    for task in json.load(sys.stdin):
        try:
            result = answers(task)
        except Exception as error:  # whatever vLLM raises is the result
            result = {"error": f"{type(error).__name__}: {error}"}
        print("\n" + json.dumps({"family": task["family"], **result}), flush=True)
        gc.collect()
        cleanup_dist_env_and_memory()


if __name__ == "__main__":
    main()

"""One start of real vLLM: a small model with made-up weights, a few tokens, what they took.

Called by `support.vllm`: `start.py MODEL OPTIONS RESULT`, OPTIONS a JSON object, RESULT a file.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

PROMPT = [1, 5, 9, 20]


def main() -> None:
    from vllm import LLM, SamplingParams

    model, options, result = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    began = time.monotonic()
    llm = LLM(
        model=model,
        load_format="dummy",
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=512,
        seed=0,
        gpu_memory_utilization=0.2,
        tensor_parallel_size=options["ranks"],
        max_num_batched_tokens=options["batched_tokens"],
    )
    init_seconds = time.monotonic() - began

    def greedy(count: int) -> SamplingParams:
        return SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)

    outputs = llm.generate([{"prompt_token_ids": PROMPT}], greedy(8), use_tqdm=False)
    latencies = []
    if options["timed_tokens"]:
        engine = llm.llm_engine
        engine.add_request("timed", {"prompt_token_ids": PROMPT}, greedy(options["timed_tokens"]))
        while engine.has_unfinished_requests():
            before = time.perf_counter()
            engine.step()
            latencies.append(time.perf_counter() - before)
    result.write_text(
        json.dumps(
            {
                "tokens": list(outputs[0].outputs[0].token_ids),
                "init_seconds": init_seconds,
                "latencies": latencies,
            }
        )
    )


if __name__ == "__main__":  # vLLM spawns processes that import this file
    main()

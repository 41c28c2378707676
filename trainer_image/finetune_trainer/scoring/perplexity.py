"""How likely a model finds the expected answers: the Perplexity grader, which needs the engine.

Log-probabilities of a prompt end vLLM beside adapters (vllm#16668), so each token of the answer is generated:
the engine may write that token alone and tells how likely it was before that. The tokens before it are in its
prefix cache.
"""

import math
from dataclasses import replace

from finetune_trainer.chat.reasoning import AFTER
from finetune_trainer.contracts import EvaluationSpec
from finetune_trainer.grading import Grade, scored, ungraded
from finetune_trainer.scoring.client import Engine, Refused
from finetune_trainer.scoring.rows import GradedRow, Question


async def grade_perplexity(
    engine: Engine, model: str, question: Question, row: GradedRow, evaluation: EvaluationSpec
) -> GradedRow:
    """The row with a score for each Perplexity grader: exp(mean log-probability) of the reference's tokens.

    Of longer references the first `maxTokens` tokens count. One request at a time.
    """
    names = [spec.name for spec in evaluation.graders_of("Perplexity")]
    if not names:
        return row
    grade = await _grade(engine, model, question, evaluation.output_tokens)
    return replace(row, grades={**row.grades, **dict.fromkeys(names, grade)})


async def _grade(engine: Engine, model: str, question: Question, limit: int) -> Grade:
    try:
        prompt = await engine.prompt_ids(model, question.prompt)
        if question.opened:  # the reference says what follows the reasoning
            prompt += await engine.tokens(model, AFTER)
        answer = (await engine.tokens(model, question.reference))[:limit]
        chances = [
            await engine.log_probability(model, [*prompt, *answer[:place]], token)
            for place, token in enumerate(answer)
        ]
    except Refused as error:
        return ungraded(str(error))
    if not chances:
        return ungraded("the expected output is empty")
    mean = sum(chances) / len(chances)
    return scored(min(1.0, math.exp(mean)), f"perplexity {math.exp(min(-mean, 700.0)):.3g}")

"""Base model -> assistant: questions and answers from documents, and instruction tuning on conversations.

In: a base model and conversations, JSONL of `{"messages": [{"role": ..., "content": ...}, ...]}`. Out: a model that
answers in its chat template. Reading order: `questions` (the stage), `function_questions` and `text_questions` (how
pairs are made), `chat` (the tuning stage), `distill` and `collected` (learning from a larger model), `grading`;
`preference_losses`, `sequences`, `preferring` and `preference` (better and worse answers), `reward`, `answer_pairs`;
`advantages`, `policy_losses`, `rollouts`, `remote_speaker`, `policy`, `practice`, then `reinforce`, `expert_iteration`,
`grpo`, `ppo_objective` and `ppo`; `retained` (what is forgotten) and `outcome` (what the report says of it).
"""

from fromzero.tuning.chat import ChatConfig, finetune_chat
from fromzero.tuning.questions import QuestionsConfig, make_questions

__all__ = ["ChatConfig", "QuestionsConfig", "finetune_chat", "make_questions"]

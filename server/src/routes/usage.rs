//! How a turn ended and what it took, as OpenAI's APIs write it.

use onegen_engine::{
    FinishReason as EngineFinishReason, SchemaReport as EngineSchemaReport, TurnSummary,
};
use onegen_proto::{FinishReason, PromptTokensDetails, SchemaReport, Usage};

pub(super) fn finish_reason(reason: EngineFinishReason) -> FinishReason {
    match reason {
        EngineFinishReason::Stop => FinishReason::Stop,
        EngineFinishReason::Length => FinishReason::Length,
    }
}

/// What is known of a text whose JSON schema was given.
pub(super) fn schema_report(report: EngineSchemaReport) -> SchemaReport {
    let EngineSchemaReport {
        valid,
        error,
        not_enforced,
        not_checked,
    } = report;
    SchemaReport {
        valid,
        error,
        not_enforced,
        not_checked,
    }
}

/// What a turn took. Passages count as prompt: see [`Usage`].
pub(super) fn usage(summary: &TurnSummary) -> Usage {
    let usage = &summary.usage;
    let prompt_tokens = usage.prompt_tokens + usage.passage_tokens;
    Usage {
        prompt_tokens,
        completion_tokens: usage.completion_tokens,
        total_tokens: prompt_tokens + usage.completion_tokens,
        prompt_tokens_details: PromptTokensDetails {
            cached_tokens: usage.cached_tokens,
            passage_tokens: usage.passage_tokens,
        },
    }
}

/// What both took together.
pub(super) fn sum(a: Usage, b: Usage) -> Usage {
    let mut sum = a;
    sum.prompt_tokens += b.prompt_tokens;
    sum.completion_tokens += b.completion_tokens;
    sum.total_tokens += b.total_tokens;
    sum.prompt_tokens_details.cached_tokens += b.prompt_tokens_details.cached_tokens;
    sum.prompt_tokens_details.passage_tokens += b.prompt_tokens_details.passage_tokens;
    sum
}

// One answer: from a conversation to a request, and from the stream's chunks to an answer that grows.

import { ApiError, postStream } from "./api.js";

/**
 * An answer. calls: `{id, name, arguments}`, the arguments as JSON text that may still grow. stats, in seconds: `first`
 * (token), `thinking`, `rate` (tokens a second), and `tokens`. finish: OpenAI's reason, or "stopped". error: a text.
 */
export function newAnswer(model) {
  return { role: "assistant", model, content: "", reasoning: "", calls: [], stats: {}, finish: null, error: null };
}

const isJson = (text) => {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
};

/** Messages as the API takes them. Answers that failed or were stopped before they said anything are left out. */
export function toWire(messages, system) {
  const wire = system.trim() ? [{ role: "system", content: system }] : [];
  for (const message of messages) {
    if (message.role !== "assistant") {
      wire.push({ ...message });
      continue;
    }
    // A stopped call's arguments end in the middle.
    const calls = message.calls.filter((call) => isJson(call.arguments));
    if (!message.content && !calls.length) continue;
    wire.push({
      role: "assistant",
      content: message.content,
      ...(message.reasoning && { reasoning_content: message.reasoning }),
      ...(calls.length && {
        tool_calls: calls.map(({ id, name, arguments: given }) => ({
          id,
          type: "function",
          function: { name, arguments: given },
        })),
      }),
    });
  }
  return wire;
}

/** Lets the answer grow; `changed` is told after each step. Throws what postStream throws. */
export async function generate(body, answer, signal, changed) {
  const start = performance.now();
  const seconds = () => (performance.now() - start) / 1000;
  let last = 0;
  let pieces = 0;
  let finished = false;
  for await (const chunk of postStream("v1/chat/completions", body, signal)) {
    if (chunk === null) continue;
    if (chunk.usage) answer.stats.tokens = chunk.usage.completion_tokens;
    const choice = chunk.choices[0];
    if (!choice) continue;
    if (take(choice.delta, answer)) {
      last = seconds();
      answer.stats.first ??= last;
      pieces += 1;
      if (answer.content || answer.calls.length) {
        if (answer.reasoning) answer.stats.thinking ??= last - answer.stats.first;
      }
      answer.stats.rate = rate(pieces, last - answer.stats.first);
    }
    if (choice.finish_reason) {
      answer.finish = choice.finish_reason;
      finished = true;
    }
    changed();
  }
  if (!finished) throw new ApiError(0, { message: "The connection ended before the answer was complete." });
  if (answer.reasoning) answer.stats.thinking ??= last - answer.stats.first;
  answer.stats.rate = rate(answer.stats.tokens ?? pieces, last - answer.stats.first);
}

/** Of an answer too short to be timed: null. The first token's time is not in `seconds`. */
const rate = (tokens, seconds) => (tokens > 4 && seconds > 0.02 ? (tokens - 1) / seconds : null);

/** Whether the delta said anything. */
function take(delta, answer) {
  answer.content += delta.content ?? "";
  answer.reasoning += delta.reasoning_content ?? "";
  for (const part of delta.tool_calls ?? []) {
    const call = (answer.calls[part.index] ??= { id: "", name: "", arguments: "" });
    call.id = part.id ?? call.id;
    call.name += part.function?.name ?? part.custom?.name ?? "";
    call.arguments += part.function?.arguments ?? part.custom?.input ?? "";
  }
  return Boolean(delta.content || delta.reasoning_content || delta.tool_calls?.length);
}

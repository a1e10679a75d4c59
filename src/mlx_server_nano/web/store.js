// What the page keeps in the browser: conversations, one entry each so that two tabs don't overwrite each other's, and settings.

const CHAT = "mlx-server-nano:chat:";
const SETTINGS = "mlx-server-nano:settings";

function read(name) {
  try {
    return JSON.parse(localStorage.getItem(name));
  } catch {
    return null;
  }
}

/** False if the browser has no room left. */
function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/**
 * A conversation: `{id, title, updated, messages}`. A message: `{role: "user", content}`,
 * `{role: "tool", tool_call_id, content}` or an answer (generate.js).
 */
export function newConversation() {
  // crypto.randomUUID is only there over https and on loopback.
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, title: "", updated: Date.now(), messages: [] };
}

/** The latest first. */
export function conversations() {
  return Object.keys(localStorage)
    .filter((name) => name.startsWith(CHAT))
    .map(read)
    .filter((found) => Array.isArray(found?.messages))
    .sort((a, b) => b.updated - a.updated);
}

export function saveConversation(conversation) {
  const first = conversation.messages.find((message) => message.role === "user");
  conversation.title = first ? first.content.trim().replace(/\s+/g, " ").slice(0, 80) : "";
  conversation.updated = Date.now();
  return write(CHAT + conversation.id, conversation);
}

/** Puts a deleted one back as it was. */
export const restoreConversation = (conversation) => write(CHAT + conversation.id, conversation);
export const deleteConversation = (id) => localStorage.removeItem(CHAT + id);

export const loadSettings = () => read(SETTINGS) ?? {};
export const saveSettings = (settings) => write(SETTINGS, settings);

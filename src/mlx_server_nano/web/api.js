// The server's HTTP endpoints, with the user's key. Paths are relative, so that the page works behind a proxy's prefix.

import { eventsOf } from "./sse.js";

const KEY = "mlx-server-nano:key";

/** What went wrong, in the server's words. status: 0 if there was no answer. */
export class ApiError extends Error {
  constructor(status, { message, code = null }) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The key lives as long as the tab, or longer if the user wants it to be remembered. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "",
  isRemembered: () => localStorage.getItem(KEY) !== null,
  set(value, remember) {
    sessionStorage.removeItem(KEY);
    localStorage.removeItem(KEY);
    if (value) (remember ? localStorage : sessionStorage).setItem(KEY, value);
  },
};

/** The response, if it is a good one. Throws ApiError, and AbortError when the signal fires. */
async function request(path, { body, signal } = {}) {
  const headers = {};
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers,
      body: body && JSON.stringify(body),
      signal,
      credentials: "omit",
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The server can't be reached." });
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new ApiError(response.status, told?.error ?? { message: `The server answered ${response.status}.` });
}

export const getJson = async (path, signal) => (await request(path, { signal })).json();
export const postJson = async (path, body) => (await request(path, { body })).json();

/** The parsed events of a stream, and null for each comment. Throws ApiError for an error in mid-stream. */
export async function* postStream(path, body, signal) {
  const response = await request(path, { body, signal });
  try {
    for await (const event of eventsOf(response)) {
      if (event.comment !== undefined) yield null;
      else if (event.data === "[DONE]") return;
      else {
        const value = JSON.parse(event.data);
        if (value.error) throw new ApiError(response.status, value.error);
        yield value;
      }
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The connection broke before the answer was complete." });
  }
}

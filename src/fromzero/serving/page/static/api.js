// What the page asks of the server. Paths are relative, so that the page also works behind a prefix.

const KEY = "fromzero.key";
export const getKey = () => sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "";
export const keyIsKept = () => localStorage.getItem(KEY) !== null;

// For this tab only, unless it is to be kept.
export function setKey(key, keep) {
  for (const storage of [sessionStorage, localStorage]) storage.removeItem(KEY);
  if (key) (keep ? localStorage : sessionStorage).setItem(KEY, key);
}

// kind: "offline", "key" (401, 403), "busy" (429), "loading" (503) or "refused"; wait: seconds, where the server says.
export class ApiError extends Error {
  constructor(kind, message = "", wait = 0) {
    super(message);
    Object.assign(this, { kind, wait });
  }
}

const KINDS = { 401: "key", 403: "key", 429: "busy", 503: "loading" };

async function request(path, body, signal) {
  const headers = { ...(body && { "Content-Type": "application/json" }) };
  if (getKey()) headers.Authorization = `Bearer ${getKey()}`;
  const options = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal };
  const response = await fetch(path, options).catch((error) => {
    throw signal?.aborted ? error : new ApiError("offline");
  });
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const wait = Number(response.headers.get("Retry-After")) || 0;
  throw new ApiError(KINDS[response.status] ?? "refused", said.error?.message ?? `HTTP ${response.status}`, wait);
}

export const listModels = async () => (await (await request("v1/models")).json()).data;

export const countTokens = async (body, signal) => (await (await request("tokenize", body, signal)).json()).count;

// The chunks of a streamed answer as they come.
export async function* stream(path, body, signal) {
  const response = await request(path, { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      const lines = (rest + decoder.decode(value, { stream: !done })).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError("refused", chunk.error.message);
        yield chunk;
      }
      if (done) throw new ApiError("offline"); // the line went dead before the answer's end
    }
  } catch (error) {
    throw error instanceof ApiError || signal.aborted ? error : new ApiError("offline");
  }
}

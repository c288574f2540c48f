// The JavaScript side of the adapter. A call from wasm into JavaScript is cheap, a string that crosses is not: a request
// has a dozen headers, and taking them one by one cost more than the rest of the conversion. So headers cross as one text.

// Names and values in turns, a line each. Neither may hold a line break.
function lines(headers) {
  let text = "";
  for (const [name, value] of headers) text += name + "\n" + value + "\n";
  return text;
}

function headers(text) {
  const made = new Headers();
  const parts = text.split("\n");
  for (let i = 0; i + 1 < parts.length; i += 2) made.append(parts[i], parts[i + 1]);
  return made;
}

// What a request says before its body: method, URL, then the headers.
export function request_head(request) {
  return request.method + "\n" + request.url + "\n" + lines(request.headers);
}

// What a response says before its body: status, then the headers.
export function response_head(response) {
  return response.status + "\n" + lines(response.headers);
}

export function response(status, head, body) {
  return new Response(body, { status, headers: headers(head) });
}

export function send(url, method, head, body, signal) {
  return fetch(url, { method, headers: headers(head), body, signal, redirect: "manual" });
}

// Asks a Durable Object. What the one of a link answers a WebSocket with goes on as it is.
export function ask(namespace, key, method, path, head, body, signal) {
  return namespace.get(namespace.idFromName(key)).fetch("http://object" + path, { method, headers: headers(head), body, signal });
}

// Calls back when whoever sent the request has gone.
export function listen(signal, callback) {
  signal.addEventListener("abort", callback);
}

export function unlisten(signal, callback) {
  signal.removeEventListener("abort", callback);
}

// A reader that is thrown away may still hold a read that fails; nobody waits for it.
export function drop_reader(reader) {
  reader.cancel().catch(() => {});
}

// A variable or secret as text. Structured variables are given as JSON; other bindings are no variables.
export function setting(env, name) {
  const value = env[name];
  if (typeof value === "string") return value;
  if (value && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype) return JSON.stringify(value);
  return undefined;
}

//! The crossings to JavaScript. What is done on the other side, and why there, is in `glue.js`.

use js_sys::{Function, Object, Promise, Uint8Array};
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;
use web_sys::{AbortSignal, ReadableStream, ReadableStreamDefaultReader, Request, Response};

#[wasm_bindgen(module = "/src/glue.js")]
extern "C" {
    pub(crate) fn request_head(request: &Request) -> String;
    pub(crate) fn response_head(response: &Response) -> String;
    #[wasm_bindgen(catch)]
    pub(crate) fn response(status: u16, head: &str, body: &JsValue) -> Result<Response, JsValue>;
    #[wasm_bindgen(catch)]
    pub(crate) fn send(
        url: &str,
        method: &str,
        head: &str,
        body: Option<Uint8Array>,
        signal: &AbortSignal,
    ) -> Result<Promise, JsValue>;
    #[wasm_bindgen(catch)]
    pub(crate) fn ask(
        namespace: &JsValue,
        key: &str,
        method: &str,
        path: &str,
        head: &str,
        body: Option<Uint8Array>,
        signal: &JsValue,
    ) -> Result<Promise, JsValue>;
    pub(crate) fn listen(signal: &AbortSignal, callback: &Function);
    pub(crate) fn unlisten(signal: &AbortSignal, callback: &Function);
    pub(crate) fn drop_reader(reader: &ReadableStreamDefaultReader);
    pub(crate) fn setting(env: &JsValue, name: &str) -> Option<String>;
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = log)]
    pub(crate) fn console_log(line: &str);
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    pub(crate) fn performance_now() -> f64;
    #[wasm_bindgen(js_namespace = crypto, js_name = getRandomValues, catch)]
    pub(crate) fn random(buffer: &mut [u8]) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(js_name = setTimeout)]
    pub(crate) fn set_timeout(callback: &Function, milliseconds: i32) -> JsValue;
    #[wasm_bindgen(js_name = clearTimeout)]
    pub(crate) fn clear_timeout(timer: &JsValue);

    /// A request or a response: what the two have in common.
    #[wasm_bindgen(extends = Object)]
    #[derive(Debug, Clone)]
    pub(crate) type Message;
    #[wasm_bindgen(method, getter)]
    pub(crate) fn body(this: &Message) -> Option<ReadableStream>;
    #[wasm_bindgen(method, catch)]
    pub(crate) fn bytes(this: &Message) -> Result<Promise, JsValue>;

    /// What a reader's `read` resolves with.
    pub(crate) type Chunk;
    #[wasm_bindgen(method, getter)]
    pub(crate) fn done(this: &Chunk) -> bool;
    #[wasm_bindgen(method, getter)]
    pub(crate) fn value(this: &Chunk) -> Uint8Array;
}

//! HTTP requests that a payload describes.
//!
//! A request is an object: the URL in three parts (`scheme`, `authority`, `path`), `method`, `headers`, `body` (a text, or a
//! number of letters), `unfinished` (the body never ends), and three timeouts in milliseconds. Its result is an object
//! with `status`, `headers` and `body`, or with `error`.

use serde_json::{Value, json};

use crate::{
    exports::wasaga::saga::branch::Failure,
    wasi::{
        http::{
            outgoing_handler,
            types::{
                ErrorCode, Fields, FutureIncomingResponse, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
                RequestOptions, Scheme,
            },
        },
        io::streams::StreamError,
    },
};

/// Sends all `requests`, one after the other or, if `at_once`, all before the first response is read. If one fails,
/// continues with the action `or`, else with `afterwards`.
pub fn fetch(wish: &Value) -> Result<Option<String>, Failure> {
    let requests = wish["requests"].as_array().cloned().unwrap_or_default();
    let answers: Vec<Value> = if wish["at_once"].as_bool().unwrap_or_default() {
        let begun: Vec<_> = requests.iter().map(begin).collect();
        begun.into_iter().map(finish).collect()
    } else {
        requests.iter().map(|request| finish(begin(request))).collect()
    };
    let failed = answers.iter().any(|answer| !answer["error"].is_null());
    match wish["or"].as_str() {
        Some(other) if failed => crate::misbehave(other, wish).map(|()| None),
        _ => {
            wish["afterwards"].as_str().map_or(Ok(()), |next| crate::misbehave(next, wish))?;
            Ok(Some(Value::from(answers).to_string()))
        }
    }
}

/// Begins all `requests`, waits for none of them, and continues with the action `then`.
pub fn leave_requests(wish: &Value) -> Result<(), Failure> {
    let begun: Vec<_> = wish["requests"].as_array().into_iter().flatten().map(begin).collect();
    let result = match wish["then"].as_str() {
        Some(next) => crate::misbehave(next, wish),
        None => Ok(()),
    };
    drop(begun);
    result
}

/// Begins `request`, sends all `requests`, runs the script `kv`, and then writes the results of the script as the body of
/// `request`. The output is the result of `request`.
pub fn stream(wish: &Value) -> Result<Option<String>, Failure> {
    let begun = start(&wish["request"]);
    fetch(wish)?;
    let results = crate::keyvalue::run(wish)?;
    let begun = begun.and_then(|(answer, body)| {
        write(&body, &results.to_string())?;
        OutgoingBody::finish(body, None).map_err(name)?;
        Ok((answer, None))
    });
    Ok(Some(finish(begun).to_string()))
}

/// Tries to fill the host's memory with the texts of requests that are never sent.
pub fn hoard_requests() -> Result<(), Failure> {
    let long = "A".repeat(1 << 20);
    let mut hoard = Vec::new();
    for _ in 0..256 {
        let request = OutgoingRequest::new(Fields::new());
        let kept =
            request.set_method(&Method::Other(long.clone())).is_ok() || request.set_authority(Some(&long)).is_ok();
        if kept {
            return Err(Failure::Rejected("the host keeps what nobody can use".into()));
        }
        hoard.push(request);
    }
    Ok(())
}

/// A request that is not finished. Holds the body to keep it open.
type Begun = Result<(FutureIncomingResponse, Option<OutgoingBody>), String>;

fn begin(wish: &Value) -> Begun {
    let (answer, body) = start(wish)?;
    let written = write(&body, &text(&wish["body"]));
    if wish["unfinished"].as_bool().unwrap_or_default() {
        return Ok((answer, Some(body)));
    }
    match written.and_then(|()| OutgoingBody::finish(body, None).map_err(name)) {
        // The response, or its error, is more precise than an error of the body.
        Ok(()) | Err(_) => Ok((answer, None)),
    }
}

/// Sends the head of a request.
fn start(wish: &Value) -> Result<(FutureIncomingResponse, OutgoingBody), String> {
    let headers: Vec<(String, Vec<u8>)> = wish["headers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pair| (text(&pair[0]), text(&pair[1]).into_bytes()))
        .collect();
    let request = OutgoingRequest::new(Fields::from_list(&headers).map_err(|error| format!("headers: {error:?}"))?);
    request.set_method(&method(wish["method"].as_str().unwrap_or("GET"))).map_err(|()| "method")?;
    let scheme = wish["scheme"].as_str().map(|scheme| match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    });
    request.set_scheme(scheme.as_ref()).map_err(|()| "scheme")?;
    request.set_authority(wish["authority"].as_str()).map_err(|()| "authority")?;
    request.set_path_with_query(wish["path"].as_str()).map_err(|()| "path")?;

    let options = RequestOptions::new();
    let ns = |key| wish[key].as_u64().map(|ms: u64| ms * 1_000_000);
    let _ = options.set_connect_timeout(ns("connect_ms"));
    let _ = options.set_first_byte_timeout(ns("first_byte_ms"));
    let _ = options.set_between_bytes_timeout(ns("between_bytes_ms"));

    let body = request.body().map_err(|()| "body")?;
    let answer = outgoing_handler::handle(request, Some(options)).map_err(name)?;
    Ok((answer, body))
}

fn write(body: &OutgoingBody, text: &str) -> Result<(), String> {
    let stream = body.write().map_err(|()| "body stream")?;
    text.as_bytes()
        .chunks(4096)
        .try_for_each(|piece| stream.blocking_write_and_flush(piece))
        .map_err(|error| error.to_string())
}

fn finish(begun: Begun) -> Value {
    let answer = begun.and_then(|(answer, _body)| {
        answer.subscribe().block();
        let answer = answer.get().ok_or("no answer")?.map_err(|()| "taken twice")?;
        read(&answer.map_err(name)?)
    });
    answer.unwrap_or_else(|error| json!({ "error": error }))
}

fn read(answer: &IncomingResponse) -> Result<Value, String> {
    let body = answer.consume().map_err(|()| "consumed")?;
    let stream = body.stream().map_err(|()| "streamed")?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(piece) => bytes.extend(piece),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => return Err(error.to_debug_string()),
        }
    }
    let headers: Vec<_> = answer
        .headers()
        .entries()
        .into_iter()
        .map(|(name, value)| json!([name, String::from_utf8_lossy(&value)]))
        .collect();
    Ok(json!({ "status": answer.status(), "headers": headers, "body": String::from_utf8_lossy(&bytes) }))
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        other => Method::Other(other.to_owned()),
    }
}

fn name(error: ErrorCode) -> String {
    format!("{error:?}")
}

/// A text; a number means that many letters.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        length => "x".repeat(length.as_u64().unwrap_or_default() as usize),
    }
}

//! What each route asks of its caller, by method and path alone. A route that is not here asks for `admin`: denied by
//! default, also where a route is added and forgotten here.

use super::scopes::Action;
use axum::http::Method;
use std::borrow::Cow;

/// What a route asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: health.
    Open,
    /// To be known, whoever it is.
    Known,
    /// An action on the model that the path names.
    Model(Action, String),
    /// An action on a model that the body names: the handler asks, with [`Admission`](super::Admission).
    Body(Action),
    /// To be an administrator.
    Admin,
}

impl Need {
    /// What to call it in the audit log, if it is a change.
    pub fn change(&self, method: &Method) -> Option<&'static str> {
        let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        match self {
            _ if reads => None,
            Self::Model(action, _) | Self::Body(action) => action.is_change().then(|| action.name()),
            Self::Admin => Some("admin"),
            Self::Open | Self::Known => None,
        }
    }
}

/// What `method` on `path` asks for.
pub fn need(method: &Method, path: &str) -> Need {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    // As the router takes paths apart: at the slashes, then decoded.
    let Some(segments) = path
        .strip_prefix('/')
        .and_then(|path| path.split('/').map(decoded).collect::<Option<Vec<_>>>())
    else {
        return Need::Admin;
    };
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    match segments.as_slice() {
        ["v1", rest @ ..] => contract(reads, rest),
        ["v2", rest @ ..] => open_inference(reads, rest),
        ["inference.GRPCInferenceService", procedure] => grpc(procedure),
        ["ping" | "health"] if reads => Need::Open,
        ["version"] if reads => Need::Known,
        _ => Need::Admin,
    }
}

fn contract(reads: bool, segments: &[&str]) -> Need {
    let of = |action, model: &str| Need::Model(action, name(model));
    match (reads, segments) {
        (true, ["models" | "identity"]) => Need::Known,
        (true, ["models", model] | ["models", model, ..]) => of(Action::See, model),
        (false, ["models", operation]) => match operation.rsplit_once(':') {
            Some((model, "predict" | "batchPredict" | "score" | "explain")) => of(Action::Predict, model),
            Some((model, "outcome")) => of(Action::Outcome, model),
            Some((model, "promote" | "rollback" | "route")) => of(Action::Route, model),
            Some((model, "register")) => of(Action::Register, model),
            Some((model, "load" | "unload")) => of(Action::Load, model),
            _ => Need::Admin,
        },
        (false, ["models", model, "versions"]) => of(Action::Register, model),
        (false, ["models", model, "routing" | "shadow"]) => of(Action::Route, model),
        (false, ["models", model, "invocations"]) => of(Action::Predict, model),
        _ => Need::Admin,
    }
}

fn open_inference(reads: bool, segments: &[&str]) -> Need {
    let of = |action, model: &str| Need::Model(action, name(model));
    match (reads, segments) {
        (true, [] | [""]) => Need::Known,
        (true, ["health", "live" | "ready"]) => Need::Open,
        (false, ["repository", "index"]) => Need::Known,
        (false, ["repository", "models", model, "load" | "unload"]) => of(Action::Load, model),
        (true, ["models", "stats"]) => Need::Known,
        (true, ["models", model] | ["models", model, "ready" | "config" | "stats"]) => of(Action::See, model),
        (true, ["models", model, "versions", _] | ["models", model, "versions", _, "ready" | "config" | "stats"]) => {
            of(Action::See, model)
        }
        (false, ["models", model, "infer"] | ["models", model, "versions", _, "infer"]) => of(Action::Predict, model),
        _ => Need::Admin,
    }
}

fn grpc(procedure: &str) -> Need {
    match procedure {
        "ServerLive" | "ServerReady" => Need::Open,
        "ServerMetadata" | "RepositoryIndex" => Need::Known,
        "ModelReady" | "ModelMetadata" | "ModelConfig" | "ModelStatistics" => Need::Body(Action::See),
        "ModelInfer" | "ModelStreamInfer" => Need::Body(Action::Predict),
        "RepositoryModelLoad" | "RepositoryModelUnload" => Need::Body(Action::Load),
        _ => Need::Admin,
    }
}

/// The name of `fraud@3`.
pub(crate) fn name(model: &str) -> String {
    model.split('@').next().unwrap_or(model).to_owned()
}

/// A segment as the router decodes it; none where it would refuse to.
fn decoded(segment: &str) -> Option<Cow<'_, str>> {
    if !segment.contains('%') {
        return Some(Cow::Borrowed(segment));
    }
    let bytes = segment.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut place = 0;
    while let Some(&byte) = bytes.get(place) {
        let digits = bytes
            .get(place + 1..place + 3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let value = digits
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match value {
            Some(value) if byte == b'%' => {
                decoded.push(value);
                place += 3;
            }
            _ => {
                decoded.push(byte);
                place += 1;
            }
        }
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(method: &str, path: &str, expected: &Need) {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        assert_eq!(need(&method, path), *expected, "{method} {path}");
    }

    #[test]
    fn every_kind_of_route_asks_for_its_scope() {
        let model = |action| Need::Model(action, "fraud".to_owned());
        check("POST", "/v1/models/fraud:predict", &model(Action::Predict));
        check("POST", "/v1/models/fraud@3:batchPredict", &model(Action::Predict));
        check("POST", "/v1/models/fraud:outcome", &model(Action::Outcome));
        check("POST", "/v1/models/fraud/versions", &model(Action::Register));
        check("PUT", "/v1/models/fraud/routing", &model(Action::Route));
        check("GET", "/v1/models/fraud/routing", &model(Action::See));
        check("POST", "/v1/models/fraud:promote", &model(Action::Route));
        check("GET", "/v1/models", &Need::Known);
        check("GET", "/v1/identity", &Need::Known);
        check("GET", "/v1/keys", &Need::Admin);
        check("POST", "/v1/keys", &Need::Admin);
        check("GET", "/v1/audit", &Need::Admin);
        check("POST", "/v2/models/fraud/infer", &model(Action::Predict));
        check("POST", "/v2/models/fraud/versions/3/infer", &model(Action::Predict));
        check("GET", "/v2/models/fraud/versions/3/config", &model(Action::See));
        check("POST", "/v2/repository/models/fraud/unload", &model(Action::Load));
        check("POST", "/v2/repository/index", &Need::Known);
        check("GET", "/v2/health/ready", &Need::Open);
        check("GET", "/v2", &Need::Known);
        check(
            "POST",
            "/inference.GRPCInferenceService/ModelInfer",
            &Need::Body(Action::Predict),
        );
        check("POST", "/inference.GRPCInferenceService/ServerLive", &Need::Open);
        check("POST", "/invocations", &Need::Admin);
    }

    #[test]
    fn a_name_is_decoded_as_the_router_decodes_it() {
        let model = |name: &str| Need::Model(Action::Predict, name.to_owned());
        check("POST", "/v1/models/fr%61ud%3Apredict", &model("fraud"));
        check("POST", "/v1/models/a%2Fb:predict", &model("a/b"));
        check("POST", "/v1/models/a:b:predict", &model("a:b"));
        check("POST", "/v1/models/50%:predict", &model("50%"));
        check("POST", "/v1/models/%ff:predict", &Need::Admin);
        check("POST", "/v1/models/x%40fraud:predict", &model("x"));
    }

    #[test]
    fn what_is_not_known_asks_for_admin() {
        for (method, path) in [
            ("POST", "/v1/models/fraud:destroy"),
            ("POST", "/v1/models/fraud"),
            ("DELETE", "/v1/models"),
            ("DELETE", "/v1/models/fraud"),
            ("POST", "/v1//models/fraud:predict"),
            ("POST", "//v1/models/fraud:predict"),
            ("POST", "/v2/models/fraud/infer/"),
            ("POST", "/v2/systemsharedmemory/region/x/register"),
            ("POST", "/inference.GRPCInferenceService/Else"),
            ("POST", "/v2/health/live"),
            ("GET", "/"),
            ("GET", "*"),
        ] {
            check(method, path, &Need::Admin);
        }
    }

    proptest! {
        #[test]
        fn no_path_is_open_but_health(path in "(/(v1|v2|models|health|live|ready|ping|keys|audit|%76%31|[a-z:@%/]{0,6})){0,5}", post in any::<bool>()) {
            let method = if post { Method::POST } else { Method::GET };
            if need(&method, &path) == Need::Open {
                prop_assert!(path == "/ping" || path == "/health" || path == "/v2/health/live" || path == "/v2/health/ready");
            }
        }
    }
}

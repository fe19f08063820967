//! A service with real dependencies: finds the words of a text.

use axum::{routing::{get, post}, Json, Router};
use regex::Regex;
use serde_json::{json, Value};

async fn words(text: String) -> Json<Value> {
    let found = Regex::new(r"\w+").unwrap().find_iter(&text).count();
    Json(json!({ "words": found }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let revision = "0";
    let app = Router::new().route("/", get(move || async move { revision })).route("/words", post(words));
    let port = std::env::var("PORT").unwrap_or_else(|_| "8080".into());
    axum::serve(tokio::net::TcpListener::bind(format!("0.0.0.0:{port}")).await?, app).await
}

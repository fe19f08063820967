//! A service of its own on $PORT.

use axum::{body::Bytes, extract::{Path, Query}, http::StatusCode, routing::{get, post}, Json, Router};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Asked {
    name: String,
}

#[derive(Deserialize)]
struct Line {
    price: u64,
    count: u64,
}

#[derive(Serialize)]
struct Total {
    lines: usize,
    total: u64,
}

async fn readers(Path(count): Path<u64>, Query(asked): Query<Asked>) -> String {
    format!("{} has {count} readers", asked.name)
}

async fn total(body: Bytes) -> Result<Json<Total>, (StatusCode, String)> {
    let lines: Vec<Line> = serde_json::from_slice(&body).map_err(|why| (StatusCode::BAD_REQUEST, why.to_string()))?;
    Ok(Json(Total { lines: lines.len(), total: lines.iter().map(|line| line.price * line.count).sum() }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "8080".into());
    let app = Router::new().route("/readers/{count}", get(readers)).route("/total", post(total));
    let listener = tokio::net::TcpListener::bind(format!("0.0.0.0:{port}")).await?;
    axum::serve(listener, app).await
}

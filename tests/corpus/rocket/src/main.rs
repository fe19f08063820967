//! A service of its own that says nothing of a port: Rocket's own configuration has to.

use rocket::serde::{json::Json, Deserialize, Serialize};
use rocket::{catch, catchers, get, launch, post, routes, Request};

#[derive(Deserialize)]
#[serde(crate = "rocket::serde")]
struct Line {
    price: u64,
    count: u64,
}

#[derive(Serialize)]
#[serde(crate = "rocket::serde")]
struct Total {
    lines: usize,
    total: u64,
}

#[get("/readers/<count>?<name>")]
fn readers(count: u64, name: &str) -> String {
    format!("{name} has {count} readers")
}

#[post("/total", data = "<lines>")]
fn total(lines: Json<Vec<Line>>) -> Json<Total> {
    Json(Total { lines: lines.len(), total: lines.iter().map(|line| line.price * line.count).sum() })
}

#[catch(404)]
fn nowhere(request: &Request) -> String {
    format!("nothing is at {}", request.uri())
}

#[launch]
fn rocket() -> _ {
    rocket::build().mount("/", routes![readers, total]).register("/", catchers![nowhere])
}

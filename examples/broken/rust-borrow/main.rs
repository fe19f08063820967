//! A value is used after it was moved.

fn main() {
    let name = String::from("Grace");
    drop(name);
    println!("{name}");
}

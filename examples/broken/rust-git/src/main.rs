//! A dependency whose bytes no lock pins.

fn main() {
    println!("{:?}", anyhow::anyhow!("x"));
}

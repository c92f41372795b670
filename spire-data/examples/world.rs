//! Draws a sheet of scenes of the illustrated world: `cargo run --release -p spire-data --example world -- world.png 64`.

use std::time::Instant;

use spire_data::Picture;
use spire_data::world::{World, WorldConfig};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_else(|| "world.png".into());
    let size: usize =
        arguments.next().map_or(64, |size| size.parse().expect("the second argument is the size in pixels"));
    let world = World::new(WorldConfig::default());
    let start = Instant::now();
    let (columns, rows) = (16, 8);
    let mut sheet = Picture::filled(columns * (size + 2), rows * (size + 2), [1.0; 3]);
    for i in 0..columns * rows {
        let scene = world.scene(i as u64);
        let picture = scene.draw(size);
        let (left, top) = (i % columns * (size + 2), i / columns * (size + 2));
        for channel in 0..3 {
            for y in 0..size {
                let to = (channel * sheet.height + top + y) * sheet.width + left;
                let from = (channel * size + y) * size;
                sheet.data[to..to + size].copy_from_slice(&picture.data[from..from + size]);
            }
        }
        println!("{}", scene.caption);
    }
    println!("{:.0} scenes a second", (columns * rows) as f64 / start.elapsed().as_secs_f64());
    sheet.save_png(&path).expect("the sheet can be written");
}

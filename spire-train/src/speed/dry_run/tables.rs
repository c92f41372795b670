//! A dry run as tables: parameters, operations, memory.

use std::fmt;

use spire_model::cost::Cost;

use super::DryRun;
use super::parts::Part;
use crate::speed::units::{amount, bytes};

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_parameters(f)?;
        writeln!(f)?;
        self.write_operations(f)?;
        writeln!(f)?;
        self.write_memory(f)
    }
}

impl DryRun {
    fn write_parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trained = self.costs.control.total().parameters;
        let total: u64 = self.parts().iter().map(|part| part.cost.parameters).sum();
        let percent = |count: u64| 100.0 * count as f64 / total as f64;
        writeln!(f, "{:<20} {:>14} {:>8}", "parameters", "number", "share")?;
        for Part { kind, cost, .. } in self.parts() {
            writeln!(f, "{:<20} {:>14} {:>6.2} %", kind.name(), cost.parameters, percent(cost.parameters))?;
        }
        writeln!(f, "{:<20} {total:>14} {:>6.2} %", "total", 100.0)?;
        writeln!(f, "{:<20} {trained:>14} {:>6.2} %", "trained", percent(trained))?;
        if let Some(count) = self.image_encoder {
            writeln!(f, "{:<20} {count:>14}   for evaluation only, not in the total", "image encoder")?;
        }
        let fusion = self.costs.control.fusion.parameters as f64;
        writeln!(
            f,
            "The fusion layers are {:.2} % of the trained parameters. The branch has {:.3} times the {} parameters that it \
             would have with ControlNet's addition (paper, Table 7: 1.03, and 1.06 if the decoder is modulated too).",
            100.0 * fusion / trained as f64,
            trained as f64 / self.parameters_with_addition as f64,
            self.parameters_with_addition
        )
    }

    fn write_operations(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, sampling) = (self.config.data.size, &self.config.evaluate.sampling);
        let header = format!("FLOPs, {size}×{size}");
        writeln!(f, "{header:<20} {:>10} {:>12} {:>12} {:>14}", "one pass", "forward", "backward", "restoration")?;
        let mut totals = [0, 0, 0];
        for Part { kind, cost, training_passes, restoration_passes } in self.parts() {
            let columns = [cost.forward * training_passes, cost.backward, cost.forward * restoration_passes];
            for (total, column) in totals.iter_mut().zip(columns) {
                *total += column;
            }
            let [forward, backward, restored] = columns.map(amount);
            let (name, pass) = (kind.name(), amount(cost.forward));
            writeln!(f, "{name:<20} {pass:>10} {forward:>12} {backward:>12} {restored:>14}")?;
        }
        let [forward, backward, restored] = totals.map(amount);
        writeln!(f, "{:<20} {:>10} {forward:>12} {backward:>12} {restored:>14}", "an image", "")?;
        let step: Cost = self.parts().into_iter().filter(|part| part.kind.is_denoiser()).map(|part| part.cost).sum();
        writeln!(
            f,
            "A multiply-add counts as two; normalisations and element-wise operations do not count. Forward and backward are \
             for a training image; texts and latents that are cached are not computed again. A restoration has {} steps \
             with guidance {}; one pass through UNet and branch takes {}FLOPs (paper: 1130 GFLOPs per step).{}",
            sampling.steps,
            sampling.guidance_scale,
            amount(step.forward),
            if sampling.clip_guidance.is_some() { " CLIP guidance is not counted." } else { "" }
        )
    }

    fn write_memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, columns: [u64; 5]| {
            let [weights, gradients, optimizer, average, activations] = columns.map(bytes);
            writeln!(f, "{name:<20} {weights:>10} {gradients:>10} {optimizer:>10} {average:>10} {activations:>12}")
        };
        let header = ["weights", "gradients", "optimiser", "average", "activations"];
        let [weights, gradients, optimizer, average, activations] = header;
        writeln!(f, "{:<20} {weights:>10} {gradients:>10} {optimizer:>10} {average:>10} {activations:>12}", "memory")?;
        let mut totals = [0; 5];
        for (name, memory) in self.memory() {
            row(f, name, memory.columns())?;
            for (total, column) in totals.iter_mut().zip(memory.columns()) {
                *total += column;
            }
        }
        row(f, "total", totals)?;
        let mut beside = self.caches();
        if self.config.train.gradient_checkpointing {
            beside.push(("the largest block that is recomputed, while it is".into(), self.recomputed()));
        }
        for (what, size) in &beside {
            writeln!(f, "{}: {}", bytes(*size), what)?;
        }
        let total = totals.into_iter().sum::<u64>() + beside.iter().map(|(_, size)| size).sum::<u64>();
        write!(
            f,
            "{} in total. Activations are an estimate from shapes, for {} × {} images; temporary buffers of operators come on \
             top.",
            bytes(total),
            self.in_flight(),
            self.config.train.batch_size,
        )
    }
}

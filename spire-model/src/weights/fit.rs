//! Checks that tensors fit a module, and loads them into it.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, bail, ensure};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, DType, Int, Shape, Tensor};
use burn_store::burn_pack;
use burn_store::{
    BurnToPyTorchAdapter, FloatCastAdapter, ModuleAdapter, ModuleContext, ModuleSnapshot, PyTorchToBurnAdapter,
};

use super::finite::checked;
use super::{Precision, Tensors};

/// Buffers in checkpoints that no model needs: position ids, window indices and masks are computed, and batch counters
/// matter only for training.
pub(super) const UNREAD_BUFFERS: [&str; 4] =
    ["embeddings.position_ids", ".num_batches_tracked", ".relative_position_index", ".attn_mask"];

/// Number of tensor names that an error message shows per kind of misfit.
const NAMES_SHOWN: usize = 5;

/// A parameter's name and shape in PyTorch's state dict.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Parameter {
    /// For example `down_blocks.0.resnets.0.conv1.weight`.
    pub name: String,
    /// Matrices are `[outputs, inputs]`, kernels `[outputs, inputs, height, width]`.
    pub shape: Vec<usize>,
}

/// The parameters of `module`, without allocating those of a new module.
pub fn parameters<M: Module>(module: &M) -> Vec<Parameter> {
    let mut list = ParameterList::default();
    module.visit(&mut list);
    list.parameters
}

/// Visits a module as burn-store does and asks its adapter for PyTorch's names and shapes of the parameters.
#[derive(Default)]
struct ParameterList {
    path: Vec<String>,
    containers: Vec<String>,
    parameters: Vec<Parameter>,
}

impl ParameterList {
    fn push(&mut self, shape: Shape) {
        let unread = || Err(burn_pack::Error::ValidationError("a description has no numbers".into()));
        let bytes = shape.iter().product::<usize>().saturating_mul(DType::F32.size());
        let burn = burn_pack::Tensor::deferred(self.path.join("."), DType::F32, shape, None, bytes, unread);
        let pytorch = BurnToPyTorchAdapter.adapt(burn, ModuleContext::new(&self.containers));
        self.parameters.push(Parameter { name: pytorch.name.clone(), shape: pytorch.shape.to_vec() });
    }
}

impl ModuleVisitor for ParameterList {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.containers.push(container_type.to_owned());
        if !container_type.starts_with("Enum:") {
            self.path.push(name.to_owned());
        }
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.containers.pop();
        if !container_type.starts_with("Enum:") {
            self.path.pop();
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.push(param.lazy_shape());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.push(param.lazy_shape());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.push(param.lazy_shape());
    }
}

/// The differences between tensors and a module.
#[derive(Clone, Debug, Default)]
pub struct Misfits {
    /// Parameters without a tensor.
    pub missing: Vec<String>,
    /// Tensors without a parameter.
    pub extra: Vec<String>,
    /// Tensors whose shape or type differs from the parameter's, with both.
    pub wrong: Vec<String>,
}

impl Misfits {
    /// Compares names, shapes and types; reads no values.
    pub fn between<M: Module>(module: &M, tensors: &Tensors) -> Self {
        let mut misfits = Self::default();
        let parameters: BTreeMap<_, _> =
            parameters(module).into_iter().map(|parameter| (parameter.name, parameter.shape)).collect();
        for (name, shape) in &parameters {
            match tensors.get(name) {
                None => misfits.missing.push(name.clone()),
                Some(tensor) if tensor.shape.to_vec() != *shape => {
                    misfits.wrong.push(format!("{name} has the shape {:?}, expected {shape:?}", tensor.shape.to_vec()))
                }
                Some(tensor) if !tensor.dtype.is_float() => {
                    misfits.wrong.push(format!("{name} holds {:?}, expected are floats", tensor.dtype));
                }
                Some(_) => {}
            }
        }
        misfits.extra = tensors
            .iter()
            .map(|tensor| &tensor.name)
            .filter(|name| !parameters.contains_key(*name))
            .filter(|name| !UNREAD_BUFFERS.iter().any(|buffer| name.ends_with(buffer)))
            .cloned()
            .collect();
        misfits
    }

    /// Whether there are no differences.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.wrong.is_empty()
    }
}

/// The number of misfits of each kind and the first few names.
impl fmt::Display for Misfits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorts = [("wrong", &self.wrong), ("missing", &self.missing), ("not part of the model", &self.extra)];
        let mut separator = "";
        for (sort, names) in sorts.into_iter().filter(|(_, names)| !names.is_empty()) {
            write!(f, "{separator}{} {sort}: {}", names.len(), names[..names.len().min(NAMES_SHOWN)].join(", "))?;
            if names.len() > NAMES_SHOWN {
                write!(f, " and {} more", names.len() - NAMES_SHOWN)?;
            }
            separator = "; ";
        }
        Ok(())
    }
}

/// Checks that `tensors` are the parameters of `module`, and that no value is NaN or infinite. Reads all values.
///
/// # Errors
/// One error that lists everything that does not fit; or one that names the tensors with such values.
pub fn check_weights<M: Module>(module: &M, tensors: &Tensors) -> Result<()> {
    check_fit(module, tensors)?;
    tensors.check_finite()
}

fn check_fit<M: Module>(module: &M, tensors: &Tensors) -> Result<()> {
    let misfits = Misfits::between(module, tensors);
    ensure!(
        misfits.is_empty(),
        "the weights in {} do not fit the model that config.json describes: {misfits}",
        tensors.origin()
    );
    Ok(())
}

/// Loads every parameter of `module` from `tensors`, converted to `precision`, one at a time.
///
/// # Errors
/// One error that lists everything that does not fit, before values are read; or a tensor can't be read, or has a value that
/// is NaN or infinite.
pub fn fill<M: Module>(mut module: M, tensors: Tensors, precision: Precision) -> Result<M> {
    check_fit(&module, &tensors)?;
    let origin = tensors.origin().to_owned();
    let adapter = PyTorchToBurnAdapter.chain(FloatCastAdapter::to(precision.dtype()));
    let result = module.apply(tensors.iter().map(checked).collect(), None, Some(Box::new(adapter)), true);
    if let Some(error) = result.errors.first() {
        bail!("can't read the weights in {origin}: {error}");
    }
    Ok(module)
}

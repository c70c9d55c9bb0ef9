//! Tensors of the wire format become tensors of the graph.

use super::error::ImportError;
use super::proto::{TensorProto, data_type};
use crate::ir::{DType, Data, Refused, Tensor, Type, WayOut};
use half::{bf16, f16};
use std::sync::Arc;

/// The element type of that number, if annulus has it.
pub(super) fn dtype(code: i32) -> Option<DType> {
    Some(match code {
        data_type::FLOAT => DType::F32,
        data_type::INT32 => DType::I32,
        data_type::INT64 => DType::I64,
        data_type::BOOL => DType::Bool,
        data_type::FLOAT16 => DType::F16,
        data_type::DOUBLE => DType::F64,
        data_type::BFLOAT16 => DType::BF16,
        _ => return None,
    })
}

/// The name of an element type that annulus lacks, for messages.
pub(super) fn type_name(code: i32) -> String {
    const NAMES: [&str; 27] = [
        "undefined",
        "float",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "int32",
        "int64",
        "string",
        "bool",
        "float16",
        "double",
        "uint32",
        "uint64",
        "complex64",
        "complex128",
        "bfloat16",
        "float8e4m3fn",
        "float8e4m3fnuz",
        "float8e5m2",
        "float8e5m2fnuz",
        "uint4",
        "int4",
        "float4e2m1",
        "float8e8m0",
        "uint2",
        "int2",
    ];
    usize::try_from(code).ok().and_then(|i| NAMES.get(i)).map_or(format!("type {code}"), |n| (*n).to_owned())
}

/// A shape from extents; `None` if one is negative or the tensor too large.
pub(super) fn shape(dims: &[i64]) -> Option<Vec<usize>> {
    let shape = dims.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<Vec<usize>>>()?;
    Type::new(DType::Bool, shape.clone()).checked_elements().map(|_| shape)
}

/// How many bytes the elements take, by type and shape.
pub(super) fn byte_size(t: &TensorProto) -> Option<u64> {
    let ty = Type::new(dtype(t.data_type)?, shape(&t.dims)?);
    ty.data_elements()?;
    u64::try_from(ty.bytes()).ok()
}

/// Reads a tensor. Its size is known from the message itself, so that nothing is allocated that was not sent.
pub(super) fn tensor(t: &TensorProto, what: &str) -> Result<Tensor, ImportError> {
    let at = || if t.name.is_empty() { what.to_owned() } else { format!("{what} {}", t.name) };
    let refused = |why: &str, way| ImportError::Refused(Refused::new(format!("{}: {why}", at()), way));
    let Some(dtype) = dtype(t.data_type) else {
        let why = format!("elements of type {} are not supported", type_name(t.data_type));
        return Err(refused(&why, WayOut::ConvertElements));
    };
    if t.data_location != 0 || !t.external_data.is_empty() {
        return Err(refused(
            "its elements are in another file, and only a model that is a file itself may have those",
            WayOut::OneFile,
        ));
    }
    let shape = shape(&t.dims)
        .ok_or_else(|| ImportError::Malformed(format!("{}: {:?} is no shape", at(), t.dims)))?;
    let data = elements(t, dtype)
        .map_err(|why| ImportError::Malformed(format!("{}: {why}, shape {shape:?}", at())))?;
    let have = data.len();
    Tensor::new(shape.clone(), data).ok_or_else(|| {
        let want: usize = shape.iter().product();
        ImportError::Malformed(format!("{}: {have} elements, and shape {shape:?} wants {want}", at()))
    })
}

fn elements(t: &TensorProto, dtype: DType) -> Result<Data, String> {
    let typed = [
        ("float_data", t.float_data.len(), dtype == DType::F32),
        (
            "int32_data",
            t.int32_data.len(),
            matches!(dtype, DType::I32 | DType::Bool | DType::F16 | DType::BF16),
        ),
        ("int64_data", t.int64_data.len(), dtype == DType::I64),
        ("double_data", t.double_data.len(), dtype == DType::F64),
        ("uint64_data", t.uint64_data.len(), false),
    ];
    if let Some((field, ..)) = typed.iter().find(|(_, len, fits)| *len > 0 && !fits) {
        return Err(format!("{dtype} elements in {field}"));
    }
    let filled = typed.iter().any(|(_, len, _)| *len > 0);
    if let Some(raw) = &t.raw_data
        && !(raw.is_empty() && filled)
    {
        if filled {
            return Err("elements in raw_data and in a typed field".into());
        }
        return Data::from_le_bytes(dtype, raw)
            .ok_or_else(|| format!("{} bytes are no {dtype} elements", raw.len()));
    }
    let bits = |x: i32| u16::try_from(x).map_err(|_| format!("{x} is not 16 bits"));
    Ok(match dtype {
        DType::F32 => Data::F32(Arc::new(t.float_data.clone())),
        DType::F64 => Data::F64(Arc::new(t.double_data.clone())),
        DType::I64 => Data::I64(Arc::new(t.int64_data.clone())),
        DType::I32 => Data::I32(Arc::new(t.int32_data.clone())),
        DType::Bool => Data::Bool(Arc::new(t.int32_data.iter().map(|&x| x != 0).collect())),
        DType::F16 => Data::F16(Arc::new(
            t.int32_data.iter().map(|&x| bits(x).map(f16::from_bits)).collect::<Result<_, _>>()?,
        )),
        DType::BF16 => Data::BF16(Arc::new(
            t.int32_data.iter().map(|&x| bits(x).map(bf16::from_bits)).collect::<Result<_, _>>()?,
        )),
    })
}

//! The name of the device that a model runs on.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;

use crate::error::LoadError;

/// `cpu`, `cuda` or `metal`. A number selects one of several GPUs, as in `cuda:1`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor
    #[default]
    Cpu,
    /// An NVIDIA GPU; needs the feature `cuda`
    Cuda(usize),
    /// An Apple GPU; needs the feature `metal`
    Metal(usize),
}

impl DeviceName {
    /// Opens the device.
    ///
    /// # Errors
    /// The program was built without support for the device, or the machine has no device with that
    /// number.
    pub fn open(self) -> Result<Device, LoadError> {
        let (feature, opened) = match self {
            Self::Cpu => return Ok(Device::Cpu),
            Self::Cuda(number) => ("cuda", Device::new_cuda(number)),
            Self::Metal(number) => ("metal", Device::new_metal(number)),
        };
        opened.map_err(|source| {
            if self.is_built_in() {
                LoadError::Device {
                    device: self.to_string(),
                    reason: source.to_string(),
                }
            } else {
                LoadError::Device {
                    device: self.to_string(),
                    reason: format!("this program was built without --features {feature}"),
                }
            }
        })
    }

    fn is_built_in(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Cuda(_) => cfg!(feature = "cuda"),
            Self::Metal(_) => cfg!(feature = "metal"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
        match (kind, number.parse()) {
            ("cpu", _) if kind == name => Ok(Self::Cpu),
            ("cuda", Ok(number)) => Ok(Self::Cuda(number)),
            ("metal", Ok(number)) => Ok(Self::Metal(number)),
            _ => Err(format!(
                "{name:?} is none of cpu, cuda, metal, or a GPU by its number as in cuda:1"
            )),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal(number) => write!(f, "metal:{number}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_candle_numbers_them() {
        assert_eq!("cpu".parse(), Ok(DeviceName::Cpu));
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        assert_eq!("cuda:1".parse(), Ok(DeviceName::Cuda(1)));
        for wrong in ["gpu", "cpu:1", "cuda:", "cuda:x", ""] {
            assert!(wrong.parse::<DeviceName>().is_err(), "{wrong}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_was_not_built_in_is_refused_with_the_feature() {
        let error = DeviceName::Cuda(0).open().unwrap_err().to_string();
        assert!(error.contains("--features cuda"), "{error}");
    }
}

//! DataFusion's functions that PostgreSQL has under the same name and another meaning, or with arguments that
//! were never compared: they are refused.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::{Result, internal_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

const NAMES: [(&str, &[&str]); 1] = [("to_date", &[])];

/// What stands in their places.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    let refused = |(name, aliases): &(&'static str, &[&str])| {
        let aliases = aliases.iter().map(|alias| alias.to_string()).collect();
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(Unlike { name, aliases, signature }))
    };
    NAMES.iter().map(refused).collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Unlike {
    name: &'static str,
    aliases: Vec<String>,
    signature: Signature,
}

impl ScalarUDFImpl for Unlike {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, _: &[DataType]) -> Result<Vec<DataType>> {
        plan_err!("{} is not supported yet as PostgreSQL has it", self.name)
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("{} is refused", self.name)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("{} is refused", self.name)
    }
}

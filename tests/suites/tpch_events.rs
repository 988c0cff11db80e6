//! TPC-H's rows as events, one type a table; and changes of a tenth of the orders.

use heliostat::internals::model::NewEvent;
use serde_json::{Map, Value, json};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator,
    PartSuppGenerator, RegionGenerator, SupplierGenerator,
};

const REGION: &str = "#r_regionkey r_name r_comment";
const NATION: &str = "#n_nationkey n_name #n_regionkey n_comment";
const SUPPLIER: &str = "#s_suppkey s_name s_address #s_nationkey s_phone #s_acctbal s_comment";
const PART: &str =
    "#p_partkey p_name p_mfgr p_brand p_type #p_size p_container #p_retailprice p_comment";
const PARTSUPP: &str = "#ps_partkey #ps_suppkey #ps_availqty #ps_supplycost ps_comment";
const CUSTOMER: &str =
    "#c_custkey c_name c_address #c_nationkey c_phone #c_acctbal c_mktsegment c_comment";
const ORDERS: &str = "#o_orderkey #o_custkey o_orderstatus #o_totalprice o_orderdate o_orderpriority o_clerk \
     #o_shippriority o_comment";
const LINEITEM: &str = "#l_orderkey #l_partkey #l_suppkey #l_linenumber #l_quantity #l_extendedprice #l_discount \
     #l_tax l_returnflag l_linestatus l_shipdate l_commitdate l_receiptdate l_shipinstruct l_shipmode l_comment";

/// All tables at a scale factor.
pub fn generate(scale: f64) -> Vec<NewEvent> {
    let mut events = Vec::new();
    macro_rules! table {
        ($generator:ident, $event_type:literal, $columns:expr) => {
            for row in $generator::new(scale, 1, 1).iter() {
                events.push(event($event_type, row_data($columns, &row.to_string())));
            }
        };
    }
    table!(RegionGenerator, "region", REGION);
    table!(NationGenerator, "nation", NATION);
    table!(SupplierGenerator, "supplier", SUPPLIER);
    table!(PartGenerator, "part", PART);
    table!(PartSuppGenerator, "partsupp", PARTSUPP);
    table!(CustomerGenerator, "customer", CUSTOMER);
    table!(OrderGenerator, "orders", ORDERS);
    table!(LineItemGenerator, "lineitem", LINEITEM);
    events
}

/// A row as TPC-H's own text form has it, as JSON; `#` marks columns that are numbers.
fn row_data(columns: &str, row: &str) -> Value {
    let column = |(name, value): (&str, &str)| match name.strip_prefix('#') {
        Some(name) => (name.to_string(), serde_json::from_str(value).unwrap()),
        None => (name.to_string(), Value::String(value.to_string())),
    };
    Value::Object(columns.split_whitespace().zip(row.split('|')).map(column).collect())
}

fn event(event_type: &str, data: Value) -> NewEvent {
    NewEvent {
        id: String::new(),
        source: String::new(),
        event_type: event_type.to_string(),
        version: 1,
        stream: None,
        time_us: 0,
        data: data.to_string().into_bytes(),
        metadata: Vec::new(),
    }
}

/// Changes to one order in ten. One half of these get another price, date and priority, and their items other
/// quantities and dates; the other half are deleted with their items.
#[allow(dead_code, reason = "for the tests")]
pub fn changes(events: &[NewEvent]) -> Vec<NewEvent> {
    let mut changes = Vec::new();
    for old in events.iter().filter(|e| e.event_type == "orders" || e.event_type == "lineitem") {
        let mut data: Map<String, Value> = serde_json::from_slice(&old.data).unwrap();
        let order =
            data.get("o_orderkey").or(data.get("l_orderkey")).and_then(Value::as_u64).unwrap();
        match order % 20 {
            3 if old.event_type == "orders" => {
                data.insert("o_totalprice".to_string(), json!(order % 400_000));
                data.insert(
                    "o_orderdate".to_string(),
                    json!(format!("199{}-0{}-15", 3 + order % 4, 1 + order % 9)),
                );
                data.insert("o_orderpriority".to_string(), json!("1-URGENT"));
            }
            3 => {
                data.insert("l_quantity".to_string(), json!(1 + order % 49));
                data.insert(
                    "l_shipdate".to_string(),
                    json!(format!("199{}-0{}-20", 3 + order % 4, 1 + order % 9)),
                );
                data.insert(
                    "l_receiptdate".to_string(),
                    json!(format!("199{}-11-20", 3 + order % 4)),
                );
            }
            11 => {
                data.insert("gone".to_string(), Value::Bool(true));
            }
            _ => continue,
        }
        changes.push(event(&old.event_type, Value::Object(data)));
    }
    changes
}

/// The same orders with other prices.
#[allow(dead_code, reason = "for the bench")]
pub fn other_prices(orders: &[NewEvent]) -> Vec<NewEvent> {
    let changed = |old: &NewEvent| {
        let mut data: Map<String, Value> = serde_json::from_slice(&old.data).unwrap();
        let price = data["o_totalprice"].as_f64().unwrap_or(0.0);
        data.insert("o_totalprice".to_string(), json!((price + 1.0).round()));
        event("orders", Value::Object(data))
    };
    orders.iter().map(changed).collect()
}

//! The items that tests and benches use. Everything else is private, so that the compiler
//! finds what nobody uses.

/// Events, schemas, rows, limits.
pub mod model {
    pub use crate::model::{Head, Position, Tick};

    pub use crate::model::alarm::Alarms;
    pub use crate::model::event::{Append, EventRef, NewEvent, RequestKey};
    pub use crate::model::json;
    pub use crate::model::limits::Limits;
    pub use crate::model::reorder::ReorderBuffer;
    pub use crate::model::row::{Row, RowCodec};
    pub use crate::model::schema::{EventTable, SqlField, SqlType, TableMode};
    pub use crate::model::sink::SinkOptions;
    pub use crate::model::source::{SourceColumn, SourceTable};
    pub use crate::model::view::{
        SinkMessage, SinkState, Update, ViewMessage, ViewRef, ViewSchema,
    };
}

/// The log without a server.
pub mod log {
    pub use crate::log::{
        AppendError, Conflict, Control, DiskFiles, DismissedLetters, Fault, FaultyFiles,
        FileHandle, Files, Frame, FrameKind, Log, LogError, LogOptions, NumberedEvent,
        QueriesInUse, QueryFile, Repair, directory, examine, info,
    };
}

/// JSON to columns, and what is wrong with it.
pub mod decode {
    pub use crate::decode::{CatalogInUse, EventCatalog, TableDecoder, Validator};
}

/// Query files to plans.
pub mod plan {
    pub use crate::plan::diagnostic::SourceFile;
    pub use crate::plan::explain;
    pub use crate::plan::{QuerySet, ViewPlan, plan_files, read_files};
}

/// Plans on workers.
pub mod dataflow {
    pub use crate::dataflow::{Beginning, Failure, InstallRequest, Runtime};
    pub use crate::engine::local::LocalRun;
}

/// Sinks and the own ClickHouse.
pub mod sink {
    pub use crate::sink::clickhouse::server::{
        ClickHouseProgram, LIBCHDB_VERSION, Login, Logins, OwnClickHouse, ServerConfig,
        ServerError, locate, read_login,
    };
    pub use crate::sink::clickhouse::{
        ClickHouseConfig, ClickHouseError, ClickHouseSink, Retention,
    };
    pub use crate::sink::{
        ErrorKind, KINDS, RejectHandler, Sink, SinkError, SinkReject, ViewSink, ViewSinkStatus,
    };
}

/// HTTP over a backend of the test's own.
pub mod http {
    pub use crate::access::{Access, AdminRecord, Grant, Narrowing, NewToken, Role, TokenStore};
    pub use crate::http::{AppState, Gate, serve};

    /// A client for plain HTTP. It may be made before a server is.
    pub fn client() -> reqwest::Client {
        crate::cli::choose_tls_provider();
        reqwest::Client::new()
    }
    pub use crate::status::*;
}

/// The sample orders.
pub mod sample {
    pub use crate::cli::client::ClientArgs;
    pub use crate::cli::sample::orders::Orders;
    pub use crate::cli::sample::{SampleArgs, SampleError, send};
}

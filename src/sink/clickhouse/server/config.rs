//! The configuration files of the own ClickHouse, the same for the program and for the library.

use std::path::Path;

use super::logins::{Login, Logins};
use crate::model::memory::total_bytes;

/// The configuration for a ClickHouse that keeps its data below `dir`. Caches and pools are small:
/// it is a guest beside the dataflow, and what it serves are read models, not a warehouse.
pub(super) fn render(dir: &Path, http_port: u16, tcp_port: u16, is_reserved: bool) -> String {
    // A port that is held for ClickHouse is shared with the socket that holds it.
    let reuse_port = u8::from(is_reserved);
    let dir = escape(&dir.display().to_string());
    format!(
        "<!-- written by heliostat at every start; changes are lost -->
<clickhouse>
  <path>{dir}/data/</path>
  <tmp_path>{dir}/data/tmp/</tmp_path>
  <listen_host>127.0.0.1</listen_host>
  <http_port>{http_port}</http_port>
  <listen_reuse_port>{reuse_port}</listen_reuse_port>
  <tcp_port>{tcp_port}</tcp_port>
  <log-level>warning</log-level>
  <logger>
    <level>warning</level>
    <log>{dir}/clickhouse.log</log>
    <size>20M</size>
    <count>2</count>
    <!-- else the library, at its terminal, tells everything twice, in a file that has no end -->
    <console>0</console>
  </logger>
  <max_server_memory_usage_to_ram_ratio>0.5</max_server_memory_usage_to_ram_ratio>
  <!-- what queries sort and group outside of memory, all together: it is on the disk of the views -->
  <max_temporary_data_on_disk_size>{SPILL_BYTES_MAX}</max_temporary_data_on_disk_size>
  <mark_cache_size>134217728</mark_cache_size>
  <primary_index_cache_size>134217728</primary_index_cache_size>
  <index_mark_cache_size>33554432</index_mark_cache_size>
  <compiled_expression_cache_size>33554432</compiled_expression_cache_size>
  <background_pool_size>4</background_pool_size>
  <background_schedule_pool_size>4</background_schedule_pool_size>
  <merge_tree>
    <!-- relative to 4 threads × 2, not to the 16 × 2 that the defaults have in mind -->
    <number_of_free_entries_in_pool_to_lower_max_size_of_merge>2</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
    <number_of_free_entries_in_pool_to_execute_mutation>2</number_of_free_entries_in_pool_to_execute_mutation>
    <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>2</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
    <old_parts_lifetime>10</old_parts_lifetime>
  </merge_tree>
  <user_directories>
    <users_xml><path>{dir}/users.xml</path></users_xml>
    <local_directory><path>{dir}/access/</path></local_directory>
  </user_directories>
</clickhouse>
"
    )
}

/// The users' file. Heliostat's own user may do everything. Readers may SELECT from the views, within
/// limits that they cannot lift.
///
/// `boot`: the library logs in as `default` to open its listeners, so that user must be there, and
/// ClickHouse cannot tell it from one who comes over HTTP. It may do nothing else, and only as many
/// queries as [`BOOT_QUERIES`], which the supervisor uses up.
pub(super) fn render_users(logins: &Logins, database: &str, boot: bool) -> String {
    let own = user(&logins.own, "own", "<access_management>1</access_management>");
    let database = database.replace('\\', "\\\\").replace('`', "\\`");
    let grant = format!(
        "<grants><query>GRANT SELECT ON {}.*</query></grants>",
        escape(&format!("`{database}`"))
    );
    let readers: String =
        logins.readers.iter().map(|login| user(login, "reader", &grant)).collect();
    let default = if boot { BOOT_USER } else { "" };
    // A machine that does not say how much it has is taken for a large one.
    let readers_limits = fixed(&reader_limits(total_bytes().unwrap_or(u64::MAX)));
    let boot_limits = fixed(&BOOT_LIMITS);
    format!(
        "<!-- written by heliostat at every start; changes are lost -->
<clickhouse>
  <users>
{own}{readers}{default}  </users>
  <profiles>
    <default/>
    <own/>
    <boot>{boot_limits}</boot>
    <reader><readonly>2</readonly>{readers_limits}</reader>
  </profiles>
  <quotas>
    <unlimited/>
    <boot><interval>
      <duration>{BOOT_QUOTA_S}</duration><queries>{BOOT_QUERIES}</queries>
    </interval></boot>
  </quotas>
</clickhouse>
"
    )
}

/// Settings of a profile that its users cannot change.
fn fixed(settings: &[(&str, u64)]) -> String {
    let values = settings.iter().map(|(name, value)| format!("<{name}>{value}</{name}>"));
    let fixed = settings.iter().map(|(name, _)| format!("<{name}><readonly/></{name}>"));
    let (values, fixed): (String, String) = (values.collect(), fixed.collect());
    format!("{values}<constraints>{fixed}</constraints>")
}

/// Limits of `default`. They are needed beside the quota: questions without a table do not count there, and
/// there may be many at once.
const BOOT_LIMITS: [(&str, u64); 4] = [
    ("max_memory_usage", 64 << 20),
    ("max_memory_usage_for_user", 128 << 20),
    ("max_threads", 1),
    ("os_thread_priority", 19),
];

/// Bytes that all queries together may write to the disk where they do not fit into memory. The settings of
/// one user or one query (`max_temporary_data_on_disk_size_for_user`) do not limit sorting in ClickHouse
/// 26.7.
const SPILL_BYTES_MAX: u64 = 1 << 30;

/// Limits of a reader, which the reader cannot lift, on a machine with so much memory. The reader's threads
/// give way to others.
fn reader_limits(machine_bytes: u64) -> [(&'static str, u64); 7] {
    // ClickHouse has half of the memory, and a reader at most half of that.
    let of_user = (3_u64 << 30).min(machine_bytes / 4);
    [
        ("max_memory_usage", (2_u64 << 30).min(of_user)),
        ("max_memory_usage_for_user", of_user),
        ("max_execution_time", 60),
        ("max_threads", 4),
        ("max_concurrent_queries_for_user", 16),
        ("os_thread_priority", 10),
        ("add_http_cors_header", 0),
    ]
}

/// Queries that `default` may make in the life of a ClickHouse: those of the boot.
pub(super) const BOOT_QUERIES: u32 = 3;
/// The quota's interval: half a century.
const BOOT_QUOTA_S: u32 = 1_500_000_000;

const BOOT_USER: &str = "    <default>
      <password></password><networks><ip>127.0.0.1</ip></networks>
      <profile>boot</profile><quota>boot</quota>
      <grants>
        <query>GRANT SYSTEM LISTEN ON *.*</query>
        <query>GRANT SELECT ON system.numbers</query>
      </grants>
    </default>
";

fn user(login: &Login, profile: &str, rights: &str) -> String {
    let name = escape(&login.user);
    let hash = login.password_sha256();
    format!(
        "    <{name}>
      <password_sha256_hex>{hash}</password_sha256_hex><networks><ip>127.0.0.1</ip></networks>
      <profile>{profile}</profile><quota>unlimited</quota>
      {rights}
    </{name}>
"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

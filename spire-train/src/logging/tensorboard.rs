//! Scalars, pictures, texts and hyper-parameters for TensorBoard. Every start of a run writes its own event file.
//!
//! The messages come from `tensorboard-proto`. The writer of `tensorboard-rs` is not used: it panics when the disk is full,
//! swaps the width and height of pictures, and can't mark a resume.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use image::{ImageFormat, RgbImage};
use protobuf::well_known_types::Value;
use protobuf::{Message, RepeatedField};
use tensorboard_proto::event::{Event, SessionLog, SessionLog_SessionStatus};
use tensorboard_proto::plugin_hparams::{HParamsPluginData, SessionStartInfo};
use tensorboard_proto::summary::{Summary, Summary_Image, Summary_Value, SummaryMetadata, SummaryMetadata_PluginData};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::tensor_shape::{TensorShapeProto, TensorShapeProto_Dim};
use tensorboard_proto::types::DataType;
use thiserror::Error;

use super::hyperparameters::Hyperparameter;
use super::records::write_record;

/// Why an event could not be written.
#[derive(Debug, Error)]
#[error("{path}: {source}")]
pub struct TensorBoardError {
    /// The event file, or its directory.
    pub path: PathBuf,
    /// The error of the operating system.
    pub source: io::Error,
}

/// An open event file.
pub struct TensorBoard {
    path: PathBuf,
    file: File,
}

impl TensorBoard {
    /// Creates an event file in `dir`, and `dir` itself if needed, for a run whose next step is `next_step`. After a
    /// resume TensorBoard ignores that step and later ones in earlier files.
    ///
    /// # Errors
    /// The directory or the file can't be created.
    pub fn create(dir: &Path, next_step: u64) -> Result<Self, TensorBoardError> {
        let failed = |source| TensorBoardError { path: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        let (path, file) = create_event_file(dir).map_err(failed)?;
        let mut board = Self { path, file };

        let mut version = Event::new();
        version.set_file_version("brain.Event:2".to_owned());
        board.write(version, 0)?;

        let mut start = SessionLog::new();
        start.set_status(SessionLog_SessionStatus::START);
        let mut event = Event::new();
        event.set_session_log(start);
        board.write(event, next_step)?;
        Ok(board)
    }

    /// Adds a point to the curve `tag`. The part before a slash names a group: `train/loss`.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn scalar(&mut self, tag: &str, value: f32, step: u64) -> Result<(), TensorBoardError> {
        let mut point = Summary_Value::new();
        point.set_tag(tag.to_owned());
        point.set_simple_value(value);
        self.value(point, step)
    }

    /// Adds a picture; TensorBoard shows the pictures of a tag with a slider over the steps.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn image(&mut self, tag: &str, picture: &RgbImage, step: u64) -> Result<(), TensorBoardError> {
        let mut png = io::Cursor::new(Vec::new());
        picture.write_to(&mut png, ImageFormat::Png).map_err(|error| self.failed(io::Error::other(error)))?;
        let mut image = Summary_Image::new();
        image.set_width(picture.width() as i32);
        image.set_height(picture.height() as i32);
        image.set_colorspace(3);
        image.set_encoded_image_string(png.into_inner());
        let mut value = Summary_Value::new();
        value.set_tag(tag.to_owned());
        value.set_image(image);
        self.value(value, step)
    }

    /// Adds a text, which TensorBoard shows as it is.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn text(&mut self, tag: &str, text: &str, step: u64) -> Result<(), TensorBoardError> {
        // TensorBoard reads Markdown: indented lines are shown as they are.
        let code: String = text.lines().map(|line| format!("    {line}\n")).collect();
        let mut side = TensorShapeProto_Dim::new();
        side.set_size(1);
        let mut shape = TensorShapeProto::new();
        shape.set_dim(RepeatedField::from_vec(vec![side]));
        let mut tensor = TensorProto::new();
        tensor.set_dtype(DataType::DT_STRING);
        tensor.set_tensor_shape(shape);
        tensor.set_string_val(RepeatedField::from_vec(vec![code.into_bytes()]));
        let mut value = Summary_Value::new();
        value.set_tag(format!("{tag}/text_summary"));
        value.set_metadata(metadata("text", Vec::new()));
        value.set_tensor(tensor);
        self.value(value, step)
    }

    /// Adds the run's hyper-parameters, by which TensorBoard compares runs.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn hyperparameters(
        &mut self,
        parameters: Vec<(String, Hyperparameter)>,
        step: u64,
    ) -> Result<(), TensorBoardError> {
        let of = |parameter| {
            let mut value = Value::new();
            match parameter {
                Hyperparameter::Number(number) => value.set_number_value(number),
                Hyperparameter::Switch(switch) => value.set_bool_value(switch),
                Hyperparameter::Text(text) => value.set_string_value(text),
            }
            value
        };
        let mut info = SessionStartInfo::new();
        info.set_hparams(parameters.into_iter().map(|(key, parameter)| (key, of(parameter))).collect());
        info.set_start_time_secs(seconds_since_1970());
        let mut data = HParamsPluginData::new();
        data.set_session_start_info(info);
        let content = data.write_to_bytes().map_err(|error| self.failed(error.into()))?;
        let mut value = Summary_Value::new();
        value.set_tag("_hparams_/session_start_info".to_owned());
        value.set_metadata(metadata("hparams", content));
        self.value(value, step)
    }

    fn value(&mut self, value: Summary_Value, step: u64) -> Result<(), TensorBoardError> {
        let mut summary = Summary::new();
        summary.set_value(RepeatedField::from_vec(vec![value]));
        let mut event = Event::new();
        event.set_summary(summary);
        self.write(event, step)
    }

    fn write(&mut self, mut event: Event, step: u64) -> Result<(), TensorBoardError> {
        event.set_wall_time(seconds_since_1970());
        event.set_step(step as i64);
        let bytes = event.write_to_bytes().map_err(|error| self.failed(error.into()))?;
        write_record(&mut self.file, &bytes).map_err(|error| self.failed(error))
    }

    fn failed(&self, source: io::Error) -> TensorBoardError {
        TensorBoardError { path: self.path.clone(), source }
    }
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Says which part of TensorBoard shows a value.
fn metadata(plugin: &str, content: Vec<u8>) -> SummaryMetadata {
    let mut data = SummaryMetadata_PluginData::new();
    data.set_plugin_name(plugin.to_owned());
    data.set_content(content);
    let mut metadata = SummaryMetadata::new();
    metadata.set_plugin_data(data);
    metadata
}

/// The file name begins with the time, because TensorBoard reads the files of a directory in the order of their names.
fn create_event_file(dir: &Path) -> io::Result<(PathBuf, File)> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let created = (0_u32..).find_map(|number| {
        let path = dir.join(format!("events.out.tfevents.{seconds:010}.{number:04}.spire"));
        match File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
            created => Some(created.map(|file| (path, file))),
        }
    });
    created.unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::logging::records::tests::records;

    /// The events of a file.
    pub fn events(path: &Path) -> Vec<Event> {
        records(&fs::read(path).unwrap()).into_iter().map(|data| Message::parse_from_bytes(data).unwrap()).collect()
    }

    #[test]
    fn scalars_and_pictures_are_in_the_file_with_their_steps() {
        let dir = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::create(dir.path(), 5).unwrap();
        let picture = RgbImage::from_fn(6, 4, |x, y| image::Rgb([x as u8 * 40, y as u8 * 60, 0]));
        board.scalar("train/loss", 0.5, 5).unwrap();
        board.image("samples", &picture, 6).unwrap();

        let events = events(&board.path);
        assert_eq!(events[0].get_file_version(), "brain.Event:2");
        assert_eq!(
            (events[1].get_session_log().get_status(), events[1].get_step()),
            (SessionLog_SessionStatus::START, 5)
        );
        let loss = &events[2].get_summary().get_value()[0];
        assert_eq!((loss.get_tag(), loss.get_simple_value(), events[2].get_step()), ("train/loss", 0.5, 5));
        let sample = events[3].get_summary().get_value()[0].get_image();
        assert_eq!((sample.get_width(), sample.get_height(), events[3].get_step()), (6, 4, 6));
        let decoded = image::load_from_memory(sample.get_encoded_image_string()).unwrap();
        assert_eq!(decoded.into_rgb8(), picture);
    }

    #[test]
    fn texts_and_hyperparameters_are_marked_for_their_plugins() {
        let dir = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::create(dir.path(), 3).unwrap();
        board.text("config", "[train]\nsteps = 3", 3).unwrap();
        let parameters = vec![
            ("train.steps".to_owned(), Hyperparameter::Number(3.0)),
            ("model.base".to_owned(), Hyperparameter::Text("tiny".to_owned())),
        ];
        board.hyperparameters(parameters, 3).unwrap();

        let events = events(&board.path);
        let text = &events[2].get_summary().get_value()[0];
        assert_eq!((text.get_tag(), events[2].get_step()), ("config/text_summary", 3));
        assert_eq!(text.get_metadata().get_plugin_data().get_plugin_name(), "text");
        assert_eq!(text.get_tensor().get_string_val()[0], b"    [train]\n    steps = 3\n");
        let parameters = &events[3].get_summary().get_value()[0];
        assert_eq!(parameters.get_tag(), "_hparams_/session_start_info");
        let plugin = parameters.get_metadata().get_plugin_data();
        assert_eq!(plugin.get_plugin_name(), "hparams");
        let data: HParamsPluginData = Message::parse_from_bytes(plugin.get_content()).unwrap();
        let values = data.get_session_start_info().get_hparams();
        assert_eq!(values["train.steps"].get_number_value(), 3.0);
        assert_eq!(values["model.base"].get_string_value(), "tiny");
    }

    #[test]
    fn every_start_has_its_own_file_in_the_order_of_time() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..3).map(|step| TensorBoard::create(dir.path(), step).unwrap().path).collect();
        assert!(paths.is_sorted() && paths.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn the_error_names_a_directory_that_can_not_be_created() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = TensorBoard::create(&file.path().join("tensorboard"), 0).err().unwrap();
        assert!(error.to_string().contains("tensorboard"));
    }
}
